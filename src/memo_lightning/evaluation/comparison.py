"""Comparing memories: scores, costs and curves, with intervals over seeds."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from memo_lightning.errors import UserError
from memo_lightning.evaluation.comparison_plot import plot_comparison
from memo_lightning.evaluation.in_context import Estimate
from memo_lightning.evaluation.statistics import FEW_SEEDS, estimate_over_seeds
from memo_lightning.tracking import resolve_store
from memo_lightning.tracking.finished_runs import (
    EvaluationKind,
    FinishedRun,
    RunStore,
    differing_settings,
    latest_of_each_seed,
    shared_evaluation,
)
from memo_lightning.wording import returns_in_words

_CURVE_POINTS = 60
_SHOWN_SETTINGS = 5


@dataclass(frozen=True)
class Curve:
    """An estimate over seeds along an axis."""

    x: NDArray[np.float64]
    y: Estimate


@dataclass(frozen=True)
class Group:
    """The runs of one memory on one environment, a run per seed.

    Attributes:
        name: of the memory, or whatever was grouped by.
        environment: that it was trained on.
        seeds: of the runs.
        frames: that each run was trained for.
        score: return per trial.
        score_of: what was measured: a kind of evaluation, or the end of training; the same for all groups of an
            environment.
        partly_evaluated: whether some of the runs have evaluations that the score is not of, as others have none
            of the kind.
        differing: settings that are not the same in all runs, with the values they have.
        frames_per_second: in training, mean over the runs.
        memory_bytes: the most that one environment's memory held, mean over the runs.
        flops_per_step: of the memory in an acting step at the end of a trial, mean over the runs; NaN where a run
            does not say.
        learning: return per trial over frames.
        in_context: reward per step, over the steps of a trial.
    """

    name: str
    environment: str
    seeds: list[int]
    frames: list[int]
    score: Estimate
    score_of: str
    partly_evaluated: bool
    differing: dict[str, list[str]]
    frames_per_second: float
    memory_bytes: float
    flops_per_step: float
    learning: Curve
    in_context: Curve


@dataclass(frozen=True)
class Comparison:
    """Groups that are compared.

    Attributes:
        groups: best first within each environment.
        group_by: the tag or setting whose values they are.
        chosen_by: what the trials of a study were chosen by; None where the runs are of no study.
    """

    groups: list[Group]
    group_by: str
    chosen_by: str | None = None


def compare(config: DictConfig) -> Comparison:
    """Compare what ``conf/compare.yaml`` and its overrides choose; leaves a table, a plot and the numbers.

    Args:
        config: a configuration composed by :func:`memo_lightning.config.compose_config`.

    Returns:
        What was compared.

    Raises:
        UserError: if no run fits, or nothing can be written.
    """
    tags = {**config.tags, **({"study": config.study} if config.study else {})}
    store, chosen_by = RunStore(resolve_store(config.tracking_uri), config.experiment_name), None
    runs = store.finished(tags, of_studies=bool({"study", "trial"} & {*tags, config.group_by}))
    if config.study:
        runs, chosen_by = store.best_trials(config.study, runs, config.group_by)
    by_environment: dict[str, dict[str, list[FinishedRun]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        name = run.group(config.group_by)
        if name is None:
            known = ", ".join(sorted(tag for tag in run.tags if not tag.startswith("mlflow.")))
            raise UserError(
                f"group_by={config.group_by}: run {run.run_id} has no such tag and no such setting; it has the tags "
                f"{known}, and the settings in its config.yaml"
            )
        by_environment[run.tags["environment"]][name].append(run)
    groups = []
    for environment, all_members in by_environment.items():
        members = {name: latest_of_each_seed(runs) for name, runs in all_members.items()}
        kind = shared_evaluation([run for runs in members.values() for run in runs])
        groups += [_summarise(name, environment, runs, kind) for name, runs in members.items()]
    groups.sort(key=lambda group: (group.environment, -float(group.score.mean)))
    comparison, run_dir = Comparison(groups, config.group_by, chosen_by), Path(config.run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "comparison.md").write_text(as_markdown(comparison))
        (run_dir / "comparison.json").write_text(json.dumps([_as_plain(group) for group in groups], indent=2) + "\n")
    except OSError as error:
        raise UserError(f"run_dir={run_dir}: must be writable ({error.strerror})") from None
    plot_comparison(groups, run_dir / "comparison.png")
    return comparison


def as_markdown(comparison: Comparison) -> str:
    """Return the table, with what must be known to read it."""
    groups = comparison.groups
    lines = [
        f"| environment | {comparison.group_by} | return per trial | 95 % interval | seeds | frames | frames/s "
        "| memory | FLOPs/step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for group in groups:
        estimate = (float(value) for value in (group.score.mean, group.score.low, group.score.high))
        score, *ends = returns_in_words(*(value for value in estimate if not math.isnan(value)))
        interval = " to ".join(ends) or "one seed: none"
        lines.append(
            f"| {group.environment} | {group.name} | {score} | {interval} | {len(group.seeds)} "
            f"| {_spread(group.frames)} | {group.frames_per_second:,.0f} | {_kilobytes(group.memory_bytes)} "
            f"| {_megaflops(group.flops_per_step)} |"
        )
    return "\n".join(lines) + "\n\n" + "\n\n".join(_notes(comparison)) + "\n"


def _notes(comparison: Comparison) -> list[str]:
    """Return what the table does not say by itself, and what makes it less than it seems."""
    groups = comparison.groups
    score_of = {group.environment: group.score_of for group in groups}
    same = len(set(score_of.values())) == 1
    measured = next(iter(score_of.values())) if same else "; ".join(f"{e}: {kind}" for e, kind in score_of.items())
    notes = [
        "Return per trial is the interquartile mean over seeds with its percentile bootstrap interval, measured at: "
        f"{measured}. Memory is the most that one environment's memory holds during a trial; FLOPs are the memory's "
        "in an acting step at the end of a trial, the making of summaries included."
    ]
    if comparison.chosen_by:
        notes.append(
            f"**Chosen by the score** ({comparison.chosen_by}): every memory is shown at the best of its trials. What "
            "won a search looks better than it is; train it again with other seeds for a number to rely on."
        )
    partly = [group.name for group in groups if group.partly_evaluated]
    if partly:
        notes.append(
            f"**Evaluations left out** ({_names(partly)}): not every run was evaluated in the same way. memo evaluate "
            "with the same settings for each run makes them comparable."
        )
    for group in groups:
        if group.differing:
            settings = [f"{name} {', '.join(values)}" for name, values in group.differing.items()]
            more = len(settings) - _SHOWN_SETTINGS
            shown = "; ".join(settings[:_SHOWN_SETTINGS]) + (f"; and {more} more" if more > 0 else "")
            notes.append(f"**Not seeds of one thing** ({group.name}): the runs differ in {shown}.")
    few = [group.name for group in groups if len(group.seeds) < FEW_SEEDS]
    if few:
        notes.append(
            f"**Few seeds** ({_names(few)}: fewer than {FEW_SEEDS}): the intervals are rough, and "
            "what they do not tell apart may still differ."
        )
    if len({frames for group in groups for frames in group.frames}) > 1:
        notes.append("**Unequal training**: the runs were trained for different numbers of frames.")
    return notes


def _summarise(name: str, environment: str, runs: Sequence[FinishedRun], kind: EvaluationKind | None) -> Group:
    """Put the runs of a group together; ``kind`` is the evaluation that the score is of, None for the training."""
    if kind:
        evaluations = [run.evaluations[kind] for run in runs]
        scores = [evaluation["return_per_trial"] for evaluation in evaluations]
        curves = np.array([evaluation["in_context_curve"]["reward"] for evaluation in evaluations])
        lengths = [evaluation.get("mean_trial_length", kind.trial_length) for evaluation in evaluations]
    else:
        scores = [run.score for run in runs]
        curves = np.array([run.metrics["return_by_quarter"] for run in runs])
        lengths = [run.metrics["trial_length"] for run in runs]
    n_parts = curves.shape[1]
    per_step = curves * n_parts / np.array(lengths, dtype=np.float64)[:, None]
    return Group(
        name=name,
        environment=environment,
        seeds=[int(run.tags["seed"]) for run in runs],
        frames=[run.metrics["frames"] for run in runs],
        score=estimate_over_seeds(np.array(scores)),
        score_of=str(kind) if kind else "the end of training",
        partly_evaluated=kind is None and any(run.evaluations for run in runs),
        differing=differing_settings(runs),
        frames_per_second=float(np.mean([run.metrics["frames_per_second"] for run in runs])),
        memory_bytes=float(np.mean([run.metrics["memory_bytes"] for run in runs])),
        flops_per_step=float(np.mean([run.metrics.get("flops_per_step", math.nan) for run in runs])),
        learning=_learning_curve([run.metrics["history"] for run in runs]),
        in_context=Curve((np.arange(n_parts) + 0.5) / n_parts * np.mean(lengths), estimate_over_seeds(per_step)),
    )


def _learning_curve(histories: Sequence[Sequence[Mapping[str, float]]]) -> Curve:
    """Return the curve over the frames that all runs have seen."""
    frames = [np.array([point["frames"] for point in history]) for history in histories]
    x = np.linspace(max(f[0] for f in frames), min(f[-1] for f in frames), _CURVE_POINTS)
    returns = [[point["return_per_trial"] for point in history] for history in histories]
    return Curve(x, estimate_over_seeds(np.array([np.interp(x, f, r) for f, r in zip(frames, returns, strict=True)])))


def _as_plain(group: Group) -> dict[str, Any]:
    def numbers(estimate: Estimate) -> dict[str, Any]:
        # JSON has no NaN: a bound that does not exist is null.
        values = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
        return {name: _without_nan(np.asarray(value).tolist()) for name, value in values.items()}

    return {
        "name": group.name,
        "environment": group.environment,
        "seeds": group.seeds,
        "frames": group.frames,
        "score_of": group.score_of,
        "differing_settings": group.differing,
        "return_per_trial": numbers(group.score),
        "frames_per_second": group.frames_per_second,
        "memory_bytes": group.memory_bytes,
        "flops_per_step": _without_nan(group.flops_per_step),
        "learning_curve": {"frames": group.learning.x.tolist(), **numbers(group.learning.y)},
        "in_context_curve": {"steps": group.in_context.x.tolist(), **numbers(group.in_context.y)},
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if math.isnan(value) else value


def _spread(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _kilobytes(n_bytes: float) -> str:
    return f"{n_bytes / 1024:,.1f} KiB"


def _megaflops(flops: float) -> str:
    return "not measured" if math.isnan(flops) else f"{flops / 1e6:,.3g} M"
