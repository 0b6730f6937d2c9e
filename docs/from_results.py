"""Makes what the pages show of `results/`, and the drawings: run `python docs/from_results.py` after a change."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from drawings import write_drawings
from leaderboard_page import TASKS, leaderboard_page
from matplotlib import rc_context
from matplotlib.lines import Line2D
from PIL import Image
from results_page import IMAGES, SCALE, claims_in_order, results_page

from memo_lightning.benchmarks.plot import plot_costs
from memo_lightning.benchmarks.tables import markdown
from memo_lightning.evaluation.colours import memory_colours
from memo_lightning.evaluation.comparison import Curve
from memo_lightning.evaluation.comparison_plot import plot_comparison
from memo_lightning.evaluation.in_context import Estimate
from memo_lightning.evaluation.plots import PAGE_WIDTH, STYLE, draw_estimate, legend_below, new_figure, tidy
from memo_lightning.evaluation.statistics import estimate_over_seeds
from memo_lightning.policies.loading import PRETRAINED, bundled_policies
from memo_lightning.policies.package import EVALUATION, TRAINING
from memo_lightning.reproduction.claim import read_claim
from memo_lightning.reproduction.plots import panels_of, plot_claim, write_panels
from memo_lightning.reproduction.results import Results
from memo_lightning.reproduction.runs import plan
from memo_lightning.tracking import environment_name, memory_name
from memo_lightning.wording import returns_in_words

DOCS = Path(__file__).resolve().parent
README = DOCS.parent / "README.md"
RESULTS = DOCS.parent / "results"
COMPARISONS = ("comparison", "partial_updates")  # each a file in results/, and an image
HEADLINE = "past_training_length"  # the claim whose runs the README's image, images/headline.png, shows
HEADLINE_ARMS = ("memo", "full_context", "rmt", "gru")
# Images that need a trained policy, and what makes them: `memo train run_dir=runs/first`, and then
IMAGES_OF_RUNS = {
    "in_context_curve.png": "it is runs/first/in_context_curve.png",
    "trial_inspector.png": "memo evaluate checkpoint=runs/first render=true: a screenshot of trial.html",
    "ext_objnav_summaries.png": "memo train experiment=ext_objnav_small, memo evaluate: summary_attention.png",
}
# What the project wants the ratios of its benchmark to be.
AIMS = {
    "update time at 4,096: full_context / memo": (">", 1.0),
    "update time at 8,192: full_context / memo": (">=", 1.5),
    "update time at 32,768: full_context / memo": (">=", 2.5),
    "update time at 8,192: memo_reencoding / memo": (">=", 3.0),
    "update memory at 8,192: memo_checkpointed / memo": ("<=", 0.4),
    "step time at 32,768: full_context / memo": (">=", 5.0),
    "state bytes at 32,768: full_context / memo": (">=", 7.3),
    "bytes that acting allocates at 32,768: full_context / memo": (">=", 7.3),
    "update time per token, memo: at 32,768 / at 2,048": ("<=", 2.4),
    "step of memo: boundaries one by one / all together": ("<=", 1.3),
}
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt}


def table_with_aims(ratios: Sequence[Mapping[str, Any]]) -> str:
    """Return the ratios of `benchmark.json`, with what is aimed at and whether it is reached."""
    lines = [["ratio", "measured", "by CPU time", "aim", ""]]
    for ratio in ratios:
        sign, bound = AIMS[ratio["name"]]
        cpu = "" if ratio["by_cpu_time"] is None else f"{ratio['by_cpu_time']:.2f}"
        reached = "reached" if _COMPARE[sign](ratio["value"], bound) else "missed"
        lines.append([ratio["name"], f"{ratio['value']:.2f}", cpu, f"{sign} {bound:g}", reached])
    return markdown(lines)


def groups_of(comparison: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the groups of a `comparison.json`, as far as they are drawn."""

    def estimate(plain: Mapping[str, Any]) -> Estimate:
        return Estimate(*(np.array(plain[name], np.float64) for name in ("mean", "low", "high")))

    def by_seconds(group: Mapping[str, Any]) -> Curve:
        if "learning_by_seconds" in group:
            curve = group["learning_by_seconds"]
            return Curve(np.array(curve["seconds"]), estimate(curve))
        curve = group["learning_curve"]  # of an earlier version
        return Curve(np.array(curve["frames"]) / group["frames_per_second"], estimate(curve))

    return [
        SimpleNamespace(
            **{name: group[name] for name in ("name", "environment", "seeds")},
            score=estimate(group["return_per_trial"]),
            learning=Curve(np.array(group["learning_curve"]["frames"]), estimate(group["learning_curve"])),
            learning_by_seconds=by_seconds(group),
            in_context=Curve(np.array(group["in_context_curve"]["steps"]), estimate(group["in_context_curve"])),
        )
        for group in comparison
    ]


def plot_headline(results: Results, path: Path) -> None:
    """Draw score against length, and against memory in the longest trials, of some arms of a claim."""
    cells = [cell for cell in plan(read_claim(HEADLINE), SCALE) if cell.arm in HEADLINE_ARMS]
    by_length, by_memory = (panels_of(f"score_against_{what}", cells, results) for what in ("length", "memory"))
    write_panels([*by_length, by_memory[-1]], [cell.arm for cell in cells], path)


def claims_table() -> str:
    """Return the README's table of all claims and their verdicts."""
    results = Results(RESULTS)
    lines = ["| claim | verdict |", "|---|---|"]
    for claim in claims_in_order():
        state = claim.state(results.verdict(claim.name, SCALE), SCALE)
        lines.append(f"| [{claim.question}](docs/results.md#claim-{claim.number}) | {state} |")
    return "\n".join(lines)


def policies_table() -> str:
    """Return the table of the bundled policies, with their evaluations."""
    lines = ["| name | memory | task | trained for | return per trial, held-out tasks |", "|---|---|---|---|---|"]
    for name in bundled_policies():
        training = json.loads((PRETRAINED / name / TRAINING).read_text())
        evaluation = json.loads((PRETRAINED / name / EVALUATION).read_text())
        memory, task = memory_name(training["config"]), environment_name(training["config"])
        mean, low, high = returns_in_words(evaluation["return_per_trial"], *evaluation["return_per_trial_interval"])
        score = f"{mean} ({low} to {high}), {evaluation['n_trials']} trials"
        lines.append(f"| `{name}` | {memory} | {task} | {training['frames']:,} frames | {score} |")
    return "\n".join(lines)


def long_trials_table() -> str:
    """Return the table of a policy that acts for longer than in training."""
    lines = ["| | 1st quarter | 2nd | 3rd | 4th | whole trial (95 % interval) |", "|---|---|---|---|---|---|"]
    for evaluation in json.loads((RESULTS / "long_trials.json").read_text())["evaluations"]:
        changed = " ".join(f"`{override}`" for override in evaluation["overrides"]) or "as trained"
        quarters = " | ".join(returns_in_words(*evaluation["return_by_quarter"]))
        mean, low, high = returns_in_words(evaluation["return_per_trial"], *evaluation["return_per_trial_interval"])
        lines.append(f"| {changed} | {quarters} | {mean} ({low} to {high}) |")
    return "\n".join(lines)


def half_precision_table() -> str:
    """Return the table of runs in half and in single precision."""
    runs = json.loads((RESULTS / "half_precision.json").read_text())["runs"]
    seeds = sorted({run["seed"] for run in runs})
    lines = [" | ".join(["| `trainer.precision`", *(f"seed {seed}" for seed in seeds), "mean of the seeds |"])]
    lines.append("|---" * (len(seeds) + 2) + "|")
    for precision in dict.fromkeys(run["precision"] for run in runs):
        chosen = sorted((run for run in runs if run["precision"] == precision), key=lambda run: run["seed"])
        cells = []
        for run in chosen:
            mean, low, high = returns_in_words(run["return_per_trial"], *run["return_per_trial_interval"])
            cells.append(f"{mean} ({low} to {high})")
        (mean,) = returns_in_words(float(np.mean([run["return_per_trial"] for run in chosen])))
        lines.append(" | ".join([f"| `{precision}`", *cells, f"{mean} |"]))
    return "\n".join(lines)


def reference_returns_table() -> str:
    """Return the table of what random actions and perfect knowledge earn."""
    lines = ["| task | trial | random actions | told everything |", "|---|---|---|---|"]
    for task in json.loads((RESULTS / "reference_returns.json").read_text()):
        random, told = returns_in_words(task["random"], task["told"])
        lines.append(f"| {TASKS[task['task']]} | {task['trial_length']:,} steps | {random} | {told} |")
    return "\n".join(lines)


def with_table(text: str, name: str, table: str) -> str:
    """Return a page with a table between its markers `<!-- NAME: ... -->` and `<!-- end of NAME -->`."""
    return re.sub(rf"(<!-- {name}: .*-->\n)(?:.*\n)*?(?=<!-- end of {name})", rf"\1{table}\n", text)


@rc_context(STYLE)
def plot_success(evaluations: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw success and SPL over the steps of a trial, of every memory of `ext_objnav_small.json` as it ships."""
    by_memory: dict[str, list[Any]] = {}
    for evaluation in evaluations:
        if not evaluation["overrides"]:
            by_memory.setdefault(evaluation["memory"], []).append(evaluation["by_steps"])
    colours, figure = memory_colours(by_memory), new_figure(PAGE_WIDTH, 2.9)
    for axes, (name, label) in zip(
        figure.subplots(1, 2), {"success": "success", "spl": "SPL (success by path length)"}.items(), strict=True
    ):
        for memory, tables in by_memory.items():
            ends = np.array(tables[0]["steps"])
            middles = ends - np.diff(ends, prepend=0.0) / 2
            draw_estimate(axes, middles, estimate_over_seeds(np.array([t[name] for t in tables])), colours[memory])
        axes.set(xlabel="step of the trial", ylabel=f"{label}\nof episodes that end there", ylim=(-0.02, 1.02))
        axes.set_xlim(left=0)
        tidy(axes)
    lines = [Line2D([], [], color=colours[m], label=f"{m} ({len(tables)} seeds)") for m, tables in by_memory.items()]
    legend_below(figure, lines)
    figure.suptitle("bands: 95 % intervals over seeds")
    figure.savefig(path)


def draw_moment_of_a_trial(path: Path) -> None:
    """Draw a trial in a held-out house just before an agent that knows the way stops at its third goal."""
    from memo_lightning.envs.habitat.agents import ShortestPathAgent  # isort: skip  (makes habitat importable)
    from memo_lightning.envs.habitat.trial import HabitatTrials  # isort: skip
    from habitat.sims.habitat_simulator.actions import HabitatSimActions

    env = HabitatTrials(trial_steps=1000, sensors=(), split="held_out", dataset={"n_placements": 1})
    agent = ShortestPathAgent(env.habitat_env)
    observation, _ = env.reset(options={"placement": 1})
    agent.reset()
    n_found = 0
    while (action := agent.act(observation)) != HabitatSimActions.stop or n_found < 2:
        observation, *_, info = env.step(action)
        if info["episode_end"]:
            n_found += 1
            agent.reset()
    Image.fromarray(env.render()).save(path)
    env.close()


def tables() -> list[tuple[str, Path, str]]:
    """Return the name, the page and the text of every table between markers."""
    ratios = json.loads((RESULTS / "benchmark.json").read_text())["ratios"]
    return [
        ("claims", README, claims_table()),
        ("policies", DOCS / "how-to/use-a-policy.md", policies_table()),
        ("long trials", DOCS / "how-to/long-trials.md", long_trials_table()),
        ("half precision", DOCS / "recipe.md", half_precision_table()),
        ("reference returns", DOCS / "tasks.md", reference_returns_table()),
        ("ratios", DOCS / "performance.md", table_with_aims(ratios)),
    ]


def main() -> None:
    """Write the images, the page of results, and the tables of performance and claims into their pages."""
    write_drawings(DOCS / "images/drawings")
    benchmark = json.loads((RESULTS / "benchmark.json").read_text())
    plot_costs(benchmark["cases"], DOCS / "images/costs.png")
    for name in COMPARISONS:
        groups = groups_of(json.loads((RESULTS / f"{name}.json").read_text()))
        plot_comparison(groups, DOCS / f"images/{name}.png")
    draw_moment_of_a_trial(DOCS / "images/ext_objnav_trial.png")
    plot_success(json.loads((RESULTS / "ext_objnav_small.json").read_text()), DOCS / "images/ext_objnav_success.png")
    results = Results(RESULTS)
    plot_headline(results, DOCS / "images/headline.png")
    for claim in claims_in_order():
        verdict = results.verdict(claim.name, SCALE)
        if claim.scales and verdict and claim.is_by_these_rules(verdict, SCALE):  # otherwise runs may be missing
            plot_claim(claim, plan(claim, SCALE), results, DOCS / IMAGES)
    (DOCS / "results.md").write_text(results_page(RESULTS, DOCS))
    (DOCS / "leaderboard.md").write_text(leaderboard_page(RESULTS))
    for name, page, table in tables():
        page.write_text(with_table(page.read_text(), name, table))


if __name__ == "__main__":
    main()
