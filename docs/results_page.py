"""The page of results, `docs/results.md`: the claims of `conf/reproduce/` and the verdicts in `results/claims/`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memo_lightning.reproduction.claim import Claim, read_claim, shipped_claims
from memo_lightning.reproduction.results import Results
from memo_lightning.reproduction.wording import number_in_words, what_in_words
from memo_lightning.wording import returns_in_words

IMAGES = "images/claims"  # beside the page
SCALE = "quick"  # that the page is about
_HEAD = """# Results

<!-- Made by `python docs/from_results.py`: change conf/reproduce/ or results/, not this page. -->

We tested the claims that have been made about Memo. Each claim is one file in `conf/reproduce/` with the question, the
arms (the memories that are compared), the seeds, and the rules by which the claim is judged. The rules are written down
before the training runs are made; where that is not so, a note says it. One command makes the missing runs and judges
the claim; `memo reproduce` alone lists all claims.

A rule **holds** if the whole 95 % interval over seeds satisfies its bound, **does not hold** if no part of the interval
does, and is **undecided** otherwise. A claim holds if all of its rules hold, and does not hold if one of them does not.

Values are interquartile means over seeds, and intervals are percentiles of a bootstrap that resamples the seeds of each
arm. *Pairs ahead*, the probability of improvement, is the share of pairs of runs in which the arm is ahead, in the
direction of the bound. If a rule compares two evaluations of the same arm, the comparison is paired by run. All follow
rliable ([arXiv 2108.13264](https://arxiv.org/abs/2108.13264)); scipy computes them. The [leaderboard](leaderboard.md)
has the scores of all memories by task.

With three to five seeds such intervals tend to be too narrow, so a verdict that is only just reached is weak evidence.
"""


def claims_in_order() -> list[Claim]:
    """Return all claims, by their numbers."""
    claims = [read_claim(name) for name in shipped_claims()]
    return sorted(claims, key=lambda claim: claim.order)


def results_page(folder: Path, docs: Path) -> str:
    """Return the page.

    Args:
        folder: of the results.
        docs: of the page, where the plots are.
    """
    results, claims = Results(folder), claims_in_order()
    verdicts = {claim.name: results.verdict(claim.name, SCALE) for claim in claims}
    parts = [_HEAD, "\n".join(_overview(claims, verdicts))]
    for claim in claims:
        parts.append("\n\n".join(_section(claim, verdicts[claim.name], docs)))
    return "\n\n".join(parts) + "\n"


def _overview(claims: list[Claim], verdicts: Mapping[str, Mapping[str, Any] | None]) -> Iterator[str]:
    yield "| | claim | verdict |\n|---|---|---|"
    for claim in claims:
        verdict = verdicts[claim.name]
        yield f"| [{claim.number}](#claim-{claim.number}) | {claim.question} | {claim.state(verdict, SCALE)} |"


def _section(claim: Claim, verdict: Mapping[str, Any] | None, docs: Path) -> Iterator[str]:
    yield f'<a id="claim-{claim.number}"></a>'  # which other pages link to, whatever the title is
    yield f"## Claim {claim.number}: {claim.title}"
    yield f"*{claim.question}*"
    if verdict is None:
        yield f"**{_sentence(claim.state(None, SCALE))}** It will hold if:"
        yield "\n".join(f"- {rule.says}" for rule in claim.rules)
    else:
        kept = sum(rule["verdict"] == "holds" for rule in verdict["rules"])
        of_all = f"{kept} of {len(verdict['rules'])} comparisons hold."
        yield f"**{_sentence(claim.state(verdict, SCALE))}** " + (
            f"{claim.answer}. ({of_all})" if claim.answer else of_all
        )
    yield f"Published: {claim.published.says} ({claim.published.source})."
    if claim.remark:
        yield f"Note: {claim.remark}."
    workers = " workers=2" if claim.scales else ""
    yield f"```bash\nmemo reproduce {claim.name}{workers}\n```"
    if verdict is None:
        return
    yield "\n".join(_rules(verdict["rules"]))
    if verdict["scores"]:
        yield '<details markdown="1"><summary>All scores</summary>'
        yield "\n".join(_scores(verdict["scores"]))
        yield "</details>"
    for plot in claim.plots:
        path = f"{IMAGES}/{claim.name}-{plot}.png"
        if (docs / path).is_file():
            yield f"![{plot.replace('_', ' ')}]({path})"
    made = [f"Numbers: [results/claims/{claim.name}.json](../results/claims/{claim.name}.json)."]
    if verdict["runs"]:
        n_runs = sum(map(len, verdict["runs"].values()))
        made.append(f"{n_runs} runs, {verdict['minutes']:,.0f} minutes in total, on {', '.join(verdict['hardware'])}.")
        made.append(f"Tuned: {verdict['tuned']}.")
    yield " ".join(made)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _rules(rules: list[Mapping[str, Any]]) -> Iterator[str]:
    yield "| rule | where | measured (95 % interval) | must be | pairs ahead | |"
    yield "|---|---|---|---|---|---|"
    for rule in rules:
        low, high = rule["interval"]
        interval = "" if low is None else f" ({number_in_words(low)} to {number_in_words(high)})"
        better = rule.get("probability_of_improvement")
        arms = f"{rule['arm']} / {rule['against']}" if "against" in rule else rule["arm"]
        yield (
            f"| {rule['says']} | {arms}, {what_in_words(rule)}: {rule['task']}, {rule['evaluation']} "
            f"| {number_in_words(rule['value'])}{interval} | {rule['bound']} "
            f"| {'' if better is None else f'{100 * better:.0f} %'} | {rule['verdict']} |"
        )


def _scores(scores: list[Mapping[str, Any]]) -> Iterator[str]:
    heads = ("task", "evaluation", "arm", "return per trial", "95 % interval", "success", "memory", "seeds", "frames")
    yield f"| {' | '.join(heads)} | parameters |"
    yield "|---" * (len(heads) + 1) + "|"
    for score in scores:
        mean, interval = "", ""
        if "return_per_trial" in score:
            numbers = [score["return_per_trial"][name] for name in ("mean", "low", "high")]
            mean, *ends = returns_in_words(*(number for number in numbers if number is not None))
            interval = " to ".join(ends)
        success = f"{score['success']['mean']:.2f}" if "success" in score else ""
        memory = f"{score['memory_bytes']['mean'] / 1024:,.1f} KiB" if "memory_bytes" in score else ""
        frames = f"{max(score['frames']):,}" if score["frames"] else ""
        yield (
            f"| {score['task']} | {score['evaluation']} | {score['arm']} | {mean} | {interval} | {success} | {memory} "
            f"| {len(score['seeds'])} | {frames} | {score['parameters']:,} |"
        )
