"""Judging a claim by its rules, once all of its runs are available."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from memo_lightning.benchmarks.tables import costs_of
from memo_lightning.errors import UserError
from memo_lightning.evaluation.statistics import estimate_over_seeds
from memo_lightning.reproduction import rules
from memo_lightning.reproduction.claim import TRAINING, Claim, Rule
from memo_lightning.reproduction.metrics import EVALUATED, TRAINED, frames_to
from memo_lightning.reproduction.results import Results
from memo_lightning.reproduction.rules import Bound, Outcome, Scores
from memo_lightning.reproduction.runs import Cell, Run, evaluation_key

_SHOWN = ("return_per_trial", "success", "memory_bytes")  # metrics shown with every verdict, where they exist

Kept = Mapping[str, Any]  # the stored results of a run


def judge(claim: Claim, scale: str, cells: Sequence[Cell], results: Results) -> dict[str, Any]:
    """Return the verdict on a claim, in the form in which it is stored.

    Args:
        claim: the claim.
        scale: scale of the runs.
        cells: its runs, all of which must be in the results.
        results: the results folder.

    Raises:
        UserError: if a rule cannot be applied to the results.
    """
    by_place = {(cell.task, cell.arm): cell for cell in cells}
    kept: dict[str, Kept] = {}
    for run in (run for cell in cells for run in cell.runs):
        found = results.run(run)
        assert found is not None, run.name
        kept[run.name] = found
    judged = [part for rule in claim.rules for part in _apply(claim, rule, scale, by_place, kept, results.folder)]
    runs = list(kept.values())
    return {
        "claim": claim.name,
        "scale": scale,
        "question": claim.question,
        "fingerprint": claim.fingerprint(scale),
        "verdict": rules.together(part["verdict"] for part in judged),
        "published": asdict(claim.published),
        "rules": judged,
        "scores": [_scores_of(cell, name, kept) for cell in cells for name in (TRAINING, *cell.evaluations)],
        "tuned": claim.tuned,
        "runs": {f"{cell.task}/{cell.arm}": [run.name for run in cell.runs] for cell in cells},
        "minutes": round(sum(map(_minutes, runs)), 1),
        "hardware": sorted({run["hardware"] for run in runs}),
        "code": sorted({run["code"] for run in runs}),
    }


def scores(cell: Cell, evaluation: str, kept: Mapping[str, Kept], metric: str) -> Scores:
    """Return a metric of an arm's runs on a task, ``[n_seeds]``; NaN where a run does not have it."""
    return np.array([_number(run, cell, evaluation, kept, metric) for run in cell.runs], np.float64)


def evaluated(run: Run, cell: Cell, evaluation: str, kept: Mapping[str, Kept]) -> Kept:
    """Return the results of an evaluation of a run, by the claim's name for it, or those of the end of training."""
    if evaluation == TRAINING:
        return kept[run.name]["training"]
    return kept[run.name]["evaluations"][evaluation_key(cell.evaluations[evaluation])]


def _number(run: Run, cell: Cell, evaluation: str, kept: Mapping[str, Kept], metric: str) -> float:
    table: Mapping[str, Callable[[Kept], float]] = TRAINED if evaluation == TRAINING else EVALUATED
    try:
        value = table[metric](evaluated(run, cell, evaluation, kept))
    except KeyError:  # an environment that does not report success
        return math.nan
    return math.nan if value is None else float(value)


def _apply(
    claim: Claim, rule: Rule, scale: str, cells: Mapping[tuple[str, str], Cell], kept: Mapping[str, Kept], folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield the findings of a rule, for every task, evaluation and opponent that it applies to."""
    is_least = rule.at_least is not None
    bound = Bound(float(rule.at_least if rule.at_least is not None else rule.at_most), is_least)  # type: ignore[arg-type]
    common: dict[str, Any] = {"kind": rule.kind, "says": rule.says, "metric": rule.metric, "bound": str(bound)}
    if rule.kind == "benchmark":
        for name in rule.against:
            value = _measured(folder, rule, name)
            where = {"task": f"{rule.length:,} steps", "evaluation": "benchmark", "arm": rule.arm, "against": name}
            yield {**common, **where, **_plain(rules.measured(value, bound))}
        return
    if rule.kind == "sooner":
        common |= {"metric": "frames", "threshold": rule.threshold}
    for task, evaluation, opponent, of_others in claim.places(rule, scale):
        arm = cells[task, rule.arm]
        where = {**common, "task": task, "evaluation": evaluation, "arm": rule.arm}
        if opponent:
            found = _against(rule, arm, evaluation, cells[task, opponent], of_others, kept, bound)
            yield {**where, "against": opponent, "against_evaluation": of_others, **found}
        else:
            judge_alone = rules.every_seed if rule.kind == "every_seed" else rules.level
            yield {**where, **_plain(judge_alone(scores(arm, evaluation, kept, rule.metric), bound))}


def _against(
    rule: Rule, arm: Cell, evaluation: str, opponent: Cell, of_others: str, kept: Mapping[str, Kept], bound: Bound
) -> dict[str, Any]:
    """Return the finding of a rule for an arm and an opponent; the bound says whether more or less is better."""
    if rule.kind == "sooner":
        total = float(max(run["training"]["frames"] for run in _of(arm, kept)))
        own, others = _frames(arm, kept, rule), _frames(opponent, kept, rule)
        outcome = rules.sooner(own, others, total, bound)
        better = rules.probability_of_improvement(-np.minimum(own, total), -np.minimum(others, total))
    else:
        own, others = scores(arm, evaluation, kept, rule.metric), scores(opponent, of_others, kept, rule.metric)
        is_same, direction = arm is opponent, 1 if bound.is_least else -1
        if rule.kind == "improvement":
            outcome = rules.improvement(own, others, bound, paired=is_same)
        else:
            outcome = rules.ratio(own, others, bound, paired=is_same)
        compare: Callable[..., Any] = rules.share_improved if is_same else rules.probability_of_improvement
        better = compare(direction * own, direction * others)
    return {**_plain(outcome), "probability_of_improvement": _finite(float(better))}


def _frames(cell: Cell, kept: Mapping[str, Kept], rule: Rule) -> Scores:
    assert rule.threshold is not None
    return np.array([frames_to(run["training"]["history"], rule.threshold) for run in _of(cell, kept)])


def _of(cell: Cell, kept: Mapping[str, Kept]) -> list[Kept]:
    return [kept[run.name] for run in cell.runs]


def _measured(folder: Path, rule: Rule, opponent: str) -> float:
    """Return the ratio of a cost between two memories in ``benchmark.json``."""
    path = folder / "benchmark.json"
    try:
        costs = costs_of(json.loads(path.read_text())["cases"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: must be a file written by memo benchmark") from None
    values = []
    for memory in (rule.arm, opponent):
        cost = costs.get((rule.length or 0, memory), {}).get(rule.metric)
        if not cost:
            raise UserError(f"{path}: has no {rule.metric} for {memory} at {rule.length} steps")
        values.append(float(cost))
    return values[0] / values[1]


def _scores_of(cell: Cell, evaluation: str, kept: Mapping[str, Kept]) -> dict[str, Any]:
    """Return the scores of an arm on a task, with their interquartile means and intervals."""
    shown: dict[str, Any] = {
        "task": cell.task,
        "arm": cell.arm,
        "evaluation": evaluation,
        "seeds": [run.seed for run in cell.runs],
        "parameters": kept[cell.runs[0].name]["training"]["parameters"],
        "frames": [run["training"]["frames"] for run in _of(cell, kept)],
    }
    known = TRAINED if evaluation == TRAINING else EVALUATED
    for metric in (metric for metric in _SHOWN if metric in known):
        values = scores(cell, evaluation, kept, metric)
        if np.isfinite(values).all():
            estimate = estimate_over_seeds(values)
            numbers = {name: _finite(float(getattr(estimate, name))) for name in ("mean", "low", "high")}
            shown[metric] = {"values": values.tolist(), **numbers}
    return shown


def _minutes(run: Kept) -> float:
    seconds = sum(evaluation["seconds"] for evaluation in run["evaluations"].values())
    return (run["training"]["wall_seconds"] + seconds) / 60


def _plain(outcome: Outcome) -> dict[str, Any]:
    interval = [_finite(outcome.low), _finite(outcome.high)]
    return {"value": _finite(outcome.value), "interval": interval, "verdict": outcome.verdict}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
