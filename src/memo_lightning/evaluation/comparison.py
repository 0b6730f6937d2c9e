"""Comparison of memories: scores, costs and curves, with intervals over seeds."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from memo_lightning.construct import accepted, resolve_class
from memo_lightning.errors import UserError
from memo_lightning.evaluation.comparison_plot import plot_comparison
from memo_lightning.evaluation.in_context import Estimate
from memo_lightning.evaluation.statistics import FEW_SEEDS, estimate_over_seeds
from memo_lightning.models import SequenceModel
from memo_lightning.tracking.evaluations import EvaluationKind
from memo_lightning.tracking.finished_runs import (
    FinishedRun,
    RunStore,
    differing_settings,
    latest_of_each_seed,
    shared_evaluation,
)
from memo_lightning.wording import listed, returns_in_words

_CURVE_POINTS = 60
_SHOWN_SETTINGS = 4  # in the name of a row
_SIZES = ("d_model", "n_layers", "n_heads", "d_ff")  # shared by the memories that have them
_OF_THE_MEMORY = ("model.", "baseline.")


@dataclass(frozen=True)
class Curve:
    """An estimate over seeds along an axis."""

    x: NDArray[np.float64]
    y: Estimate


@dataclass(frozen=True)
class Group:
    """The runs of one memory with one choice of settings on one environment, one run per seed.

    Attributes:
        name: the memory, or whatever is grouped by, with the settings that distinguish groups of the same name.
        memory: name of the memory.
        settings: the distinguishing settings by name; None where a run has no such setting.
        shared: all settings that matter and are not the memory's own, with the sizes that it has.
        environment: the training environment.
        seeds: seeds of the runs.
        frames: training frames of each run.
        score: return per trial.
        score_of: where the score was measured: a kind of evaluation, or the end of training; the same for all groups
            of an environment.
        partly_evaluated: whether some runs have evaluations that the score does not use, because not every run has
            one of the same kind.
        frames_per_second: training speed, mean over runs.
        memory_bytes: peak size of one environment's memory, mean over runs.
        flops_per_step: FLOPs of the memory in an acting step at the end of a trial, mean over runs; NaN if a run does
            not report them.
        learning: return per trial over frames.
        learning_by_seconds: return per trial over seconds of training.
        in_context: reward per step, over the steps of a trial.
    """

    name: str
    memory: str
    settings: dict[str, str | None]
    shared: dict[str, str]
    environment: str
    seeds: list[int]
    frames: list[int]
    score: Estimate
    score_of: str
    partly_evaluated: bool
    frames_per_second: float
    memory_bytes: float
    flops_per_step: float
    learning: Curve
    learning_by_seconds: Curve
    in_context: Curve


@dataclass(frozen=True)
class Comparison:
    """Groups of runs to compare.

    Attributes:
        groups: best first within each environment.
        group_by: the tag or setting by which runs are grouped.
        chosen_by: criterion by which the trials of a study were chosen; None if no study is compared.
        left_out: one line for every reason to leave runs out, with their names and how to see them.
    """

    groups: list[Group]
    group_by: str
    chosen_by: str | None = None
    left_out: tuple[str, ...] = ()


def compare(config: DictConfig) -> Comparison:
    """Compare the runs that ``conf/compare.yaml`` and its overrides choose; write a table, a plot and the numbers.

    Args:
        config: a configuration composed by :func:`memo_lightning.config.compose_config`.

    Returns:
        The groups that were compared.

    Raises:
        UserError: if no run matches, or the results cannot be written.
    """
    tags = {**config.tags, **({"study": config.study} if config.study is not None else {})}
    store, chosen_by = RunStore(config.tracking_uri, config.experiment_name), None
    runs, left_out = store.finished(tags, of_studies=bool({"study", "trial"} & {*tags, config.group_by}))
    if config.study is not None:
        runs, chosen_by = store.best_trials(str(config.study), runs, config.group_by)
    groups, repeated = _groups(runs, config.group_by)
    if repeated:
        example = repeated[0].tags.get("run_dir", "RUN_DIR")
        names = listed(run.name for run in repeated)
        left_out.append(
            f"{len(repeated)} older run(s), superseded by a newer run with the same settings and seed ({names}); "
            f"tags.run_dir={example} shows one"
        )
    groups.sort(key=lambda group: (group.environment, -float(group.score.mean)))
    comparison, run_dir = Comparison(groups, config.group_by, chosen_by, tuple(left_out)), Path(str(config.run_dir))
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "comparison.md").write_text(as_markdown(comparison))
        (run_dir / "comparison.json").write_text(json.dumps([_as_plain(group) for group in groups], indent=2) + "\n")
    except OSError as error:
        raise UserError(f"run_dir={run_dir}: must be writable ({error.strerror})") from None
    plot_comparison(groups, run_dir / "comparison.png")
    return comparison


def _groups(runs: Sequence[FinishedRun], group_by: str) -> tuple[list[Group], list[FinishedRun]]:
    """Group ``runs``, which come newest first; also return those left out because their seed was run again.

    Raises:
        UserError: if a run lacks the tag or setting to group by.
    """
    by_environment: dict[str, dict[str, list[FinishedRun]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        name = run.group(group_by)
        if name is None:
            known = ", ".join(sorted(tag for tag in run.tags if not tag.startswith("mlflow.")))
            raise UserError(
                f"group_by={group_by}: run {run.name} has no such tag or setting; its tags are {known}, and its "
                "settings are in its config.yaml"
            )
        by_environment[run.tags["environment"]][name].append(run)
    groups, repeated = [], []
    for environment, by_name in by_environment.items():
        members = []
        for name, alike in by_name.items():
            for full_name, settings, same in _told_apart(name, alike):
                newest, older = latest_of_each_seed(same)
                members.append((full_name, settings, newest))
                repeated += older
        kind = shared_evaluation([run for *_, newest in members for run in newest])
        groups += [_summarise(name, settings, environment, newest, kind) for name, settings, newest in members]
    return groups, repeated


def _told_apart(
    name: str, runs: Sequence[FinishedRun]
) -> Iterator[tuple[str, dict[str, str | None], list[FinishedRun]]]:
    """Divide the runs of a name by memory and settings, so that those that stay together differ only in the seed.

    Yields:
        A name that says what distinguishes the runs from others, their values of these settings, and the runs.
    """
    by_memory: dict[str, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        by_memory[run.memory].append(run)
    for memory, alike in by_memory.items():
        differing = differing_settings(alike)
        by_settings: dict[tuple[str | None, ...], list[FinishedRun]] = defaultdict(list)
        for run in alike:
            by_settings[tuple(run.what_matters.get(setting) for setting in differing)].append(run)
        short = [_shortest(setting, differing) for setting in differing]
        words = {
            values: [f"{setting}={value or 'unset'}" for setting, value in zip(short, values, strict=True)]
            for values in by_settings
        }
        enough = _n_words_that_tell_apart(list(words.values()))
        for values, same in by_settings.items():
            shown = [*([memory] if len(by_memory) > 1 else []), *words[values][:enough]]
            shown += ["..."] if enough < len(differing) else []
            settings = dict(zip(differing, values, strict=True))
            yield (f"{name} ({', '.join(shown)})" if shown else name), settings, same


def _n_words_that_tell_apart(rows: Sequence[Sequence[str]]) -> int:
    """Return how many of the first words of each row to show: a few, or more if some rows would look alike."""
    longest = len(rows[0])
    return next(
        n
        for n in range(min(_SHOWN_SETTINGS, longest), longest + 1)
        if len({tuple(row[:n]) for row in rows}) == len(rows)
    )


def _shortest(setting: str, others: Sequence[str]) -> str:
    """Return the last part of a setting's name if that distinguishes it from ``others``, else the whole name."""
    last = setting.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in others) == 1 else setting


def as_markdown(comparison: Comparison) -> str:
    """Return the table in Markdown, with notes on how to read it."""
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
            f"| {_cell(group.environment)} | {_cell(group.name)} | {score} | {interval} | {len(group.seeds)} "
            f"| {_spread(group.frames)} | {group.frames_per_second:,.0f} | {_kilobytes(group.memory_bytes)} "
            f"| {_megaflops(group.flops_per_step)} |"
        )
    return "\n".join(lines) + "\n\n" + "\n\n".join(_notes(comparison)) + "\n"


def _notes(comparison: Comparison) -> list[str]:
    """Return notes on what the table measures, and on what limits its conclusions."""
    groups = comparison.groups
    score_of = {group.environment: group.score_of for group in groups}
    same = len(set(score_of.values())) == 1
    measured = next(iter(score_of.values())) if same else "; ".join(f"{e}: {kind}" for e, kind in score_of.items())
    notes = [
        "Return per trial is the interquartile mean over seeds with its percentile bootstrap interval, measured at: "
        f"{measured}. Memory is the peak size of one environment's memory during a trial. FLOPs are those of the "
        "memory in an acting step at the end of a trial, including summarisation."
    ]
    if comparison.chosen_by:
        notes.append(
            f"**Chosen by the score** ({comparison.chosen_by}): each memory is represented by its best trial. The "
            "winner of a search looks better than it is; for a reliable number, train it again with other seeds."
        )
    partly = [group.name for group in groups if group.partly_evaluated]
    if partly:
        notes.append(
            f"**Evaluations left out** ({_names(partly)}): not all runs were evaluated in the same way. To make "
            "them comparable, run memo evaluate with the same settings for each."
        )
    apart: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for group in groups:
        for setting, value in group.settings.items():
            apart[group.memory][setting].add(value or "unset")
    for memory, settings in apart.items():
        shown = listed((f"{setting} ({', '.join(sorted(values))})" for setting, values in settings.items()), "; ")
        notes.append(
            f"**Other settings, other rows** ({memory}): {shown}. A row combines only runs that differ in nothing but "
            "the seed; comparison.json has the settings of each row."
        )
    notes += _unequal_settings(groups)
    notes += [f"**Left out**: {reason}." for reason in comparison.left_out]
    few = [group.name for group in groups if len(group.seeds) < FEW_SEEDS]
    if few:
        notes.append(
            f"**Few seeds** ({_names(few)}: fewer than {FEW_SEEDS}): the intervals are rough, and memories whose "
            "intervals overlap may still differ."
        )
    return notes


def _unequal_settings(groups: Sequence[Group]) -> Iterator[str]:
    """Yield one line per environment that names settings in which its memories differ, apart from their own."""
    for environment in dict.fromkeys(group.environment for group in groups):
        shown = [group for group in groups if group.environment == environment]
        lines = []
        for setting in sorted({name for group in shown for name in group.shared}):
            values: dict[str, set[str]] = defaultdict(set)
            for group in shown:
                if setting in group.shared or not setting.startswith(_OF_THE_MEMORY):
                    values[group.memory].add(group.shared.get(setting, "unset"))
            if len({frozenset(of_memory) for of_memory in values.values()}) > 1:
                each = (f"{' and '.join(sorted(of_memory))} ({memory})" for memory, of_memory in values.items())
                lines.append(f"{setting} is {', '.join(each)}")
        if lines:
            yield (
                f"**All else is not equal** ({environment}): {'; '.join(lines)}. Differences between the memories may "
                "come from these settings."
            )


def _shared_settings(run: FinishedRun) -> dict[str, str]:
    """Return the settings of a run that matter and are not the memory's own, with the sizes that it has."""
    own = {name.rpartition("/")[2]: value for name, value in run.settings.items() if name.startswith("baseline/")}
    sizes = {size: run.settings[f"model/{size}"] for size in _SIZES if f"model/{size}" in run.settings}
    if "target" in own:
        with suppress(UserError):  # a user's own memory that cannot be imported here
            sizes = accepted(resolve_class("baseline.target", own["target"], SequenceModel), sizes)
    sizes |= {size: own[size] for size in _SIZES if size in own}
    matters = {name: value for name, value in run.what_matters.items() if not name.startswith(_OF_THE_MEMORY)}
    return matters | {f"model.{size}": value for size, value in sizes.items()}


def _summarise(
    name: str,
    settings: dict[str, str | None],
    environment: str,
    runs: Sequence[FinishedRun],
    kind: EvaluationKind | None,
) -> Group:
    """Summarise the runs of a group, scored by evaluations of ``kind``, or by the end of training if it is None."""
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
        memory=runs[0].memory,
        settings=settings,
        shared=_shared_settings(runs[0]),
        environment=environment,
        seeds=[int(run.tags["seed"]) for run in runs],
        frames=[run.metrics["frames"] for run in runs],
        score=estimate_over_seeds(np.array(scores)),
        score_of=str(kind) if kind else "the end of training",
        partly_evaluated=kind is None and any(run.evaluations for run in runs),
        frames_per_second=float(np.mean([run.metrics["frames_per_second"] for run in runs])),
        memory_bytes=float(np.mean([run.metrics["memory_bytes"] for run in runs])),
        flops_per_step=float(np.mean([run.metrics.get("flops_per_step", math.nan) for run in runs])),
        learning=_learning_curve(runs, "frames"),
        learning_by_seconds=_learning_curve(runs, "seconds"),
        in_context=Curve((np.arange(n_parts) + 0.5) / n_parts * np.mean(lengths), estimate_over_seeds(per_step)),
    )


def _learning_curve(runs: Sequence[FinishedRun], axis: str) -> Curve:
    """Return the return per trial over the range of ``frames`` or ``seconds`` that all runs have covered."""
    places = [np.array([_place(point, axis, run) for point in run.metrics["history"]]) for run in runs]
    x = np.linspace(max(p[0] for p in places), min(p[-1] for p in places), _CURVE_POINTS)
    returns = [[point["return_per_trial"] for point in run.metrics["history"]] for run in runs]
    return Curve(x, estimate_over_seeds(np.array([np.interp(x, p, r) for p, r in zip(places, returns, strict=True)])))


def _place(point: Mapping[str, float], axis: str, run: FinishedRun) -> float:
    """Return the position of a point of a run's history on an axis; histories of earlier versions lack seconds."""
    return point[axis] if axis in point else point["frames"] / run.metrics["frames_per_second"]


def _as_plain(group: Group) -> dict[str, Any]:
    def numbers(estimate: Estimate) -> dict[str, Any]:
        # JSON has no NaN: a bound that does not exist is null.
        values = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
        return {name: _without_nan(np.asarray(value).tolist()) for name, value in values.items()}

    return {
        "name": group.name,
        "memory": group.memory,
        "settings": group.settings,
        "environment": group.environment,
        "seeds": group.seeds,
        "frames": group.frames,
        "score_of": group.score_of,
        "return_per_trial": numbers(group.score),
        "frames_per_second": group.frames_per_second,
        "memory_bytes": group.memory_bytes,
        "flops_per_step": _without_nan(group.flops_per_step),
        "learning_curve": {"frames": group.learning.x.tolist(), **numbers(group.learning.y)},
        "learning_by_seconds": {
            "seconds": group.learning_by_seconds.x.tolist(),
            **numbers(group.learning_by_seconds.y),
        },
        "in_context_curve": {"steps": group.in_context.x.tolist(), **numbers(group.in_context.y)},
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if math.isnan(value) else value


def _cell(text: str) -> str:
    """Escape text for a table: a bar would end the cell."""
    return text.replace("|", "\\|")


def _spread(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _kilobytes(n_bytes: float) -> str:
    return f"{n_bytes / 1024:,.1f} KiB"


def _megaflops(flops: float) -> str:
    return "not measured" if math.isnan(flops) else f"{flops / 1e6:,.3g} M"
