"""One trial of a study, in its own process: a training run for each of its seeds.

It reads ``FOLDER/trial.json`` (a :class:`TrialTask`) and writes ``FOLDER/result.json`` (a :class:`TrialResult`) beside
the runs. Only the study's own process reports the end of the trial to the storage, so that no result is lost while the
storage does not answer. The process is forked, or is the command ``python -m memo_lightning.sweeps.trial FOLDER``,
which Lightning starts again, with the same folder, for further ranks.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from omegaconf import open_dict

from memo_lightning.callbacks.pruning import Pruning
from memo_lightning.config import build, compose_config
from memo_lightning.errors import UserError
from memo_lightning.overrides import override_text
from memo_lightning.processes import end_with_parent
from memo_lightning.sweeps.reporting import TrialReporter
from memo_lightning.tracking import run_name
from memo_lightning.training.launchers import started_by_the_run
from memo_lightning.training.train import train
from memo_lightning.wording import one_line

STORAGE_VARIABLE = "MEMO_STUDY_STORAGE"  # not in trial.json: it may hold a password


@dataclass(frozen=True)
class TrialTask:
    """The task of a trial.

    Attributes:
        overrides: overrides of ``memo train``.
        seeds: seeds of the trial's runs.
        metrics: metrics of the study's objectives.
        tags: MLflow tags of the runs.
        study: the study's name in the storage; None for a rehearsal, which reports nothing.
        trial_id: id of the trial in the storage.
        pruner: configuration of the pruner; None for no reports.
        prune_on: the metric that is reported.
        prune_every: frames between reports.
    """

    overrides: list[str]
    seeds: list[int]
    metrics: list[str]
    tags: dict[str, str] = field(default_factory=dict)
    study: str | None = None
    trial_id: int = -1
    pruner: dict[str, Any] | None = None
    prune_on: str = ""
    prune_every: int = 1


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended.

    Attributes:
        state: whether it completed, was pruned, or failed.
        values: values of the objectives, as means over the seeds.
        error: what went wrong, in one line.
        mistake: whether the error is the user's, so that trying again is pointless.
        logged: names of all metrics that could be an objective.
    """

    state: Literal["complete", "pruned", "failed"]
    values: list[float] = field(default_factory=list)
    error: str | None = None
    mistake: bool = False
    logged: list[str] = field(default_factory=list)


class LastMetrics(lightning.Callback):
    """Callback that keeps the last value of every logged metric."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the last values."""
        self.values = {name: float(value) for name, value in trainer.callback_metrics.items()}


def run_trial(task: TrialTask, folder: Path) -> TrialResult:
    """Train once for each seed, until the pruner ends the trial or all seeds are done."""
    results: list[dict[str, float]] = []
    report: TrialReporter | None = None
    if task.pruner:
        assert task.study is not None
        report = TrialReporter(os.environ[STORAGE_VARIABLE], task.study, task.trial_id, build(task.pruner))
    for index, seed in enumerate(task.seeds):
        run_dir = override_text("run_dir", str(folder / f"seed{seed}"))
        config = compose_config("train", [*task.overrides, f"seed={seed}", run_dir])
        if config.logger and task.tags:
            with open_dict(config):
                config.logger.tags = {**config.logger.tags, **task.tags}
                config.logger.run_name = f"{run_name(config)}-{task.study}-trial{task.tags['trial']}"
        last = LastMetrics()
        callbacks: list[lightning.Callback] = [last]
        if report:
            report.begin_run(index * config.total_frames)
            callbacks.append(Pruning(task.prune_on, task.prune_every, report))
        metrics = train(config, callbacks)
        pruned = any(isinstance(callback, Pruning) and callback.pruned for callback in callbacks)
        if pruned and (index + 1 < len(task.seeds) or metrics["frames"] < config.total_frames):  # else it is complete
            return TrialResult("pruned")
        numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        results.append({**last.values, **numbers})

    logged = sorted(results[0])
    for metric in task.metrics:
        values = [run.get(metric, math.nan) for run in results]
        if metric in logged and not all(map(math.isfinite, values)):
            return TrialResult("failed", error=f"{metric} is {values}: must be finite", logged=logged)
    missing = [metric for metric in task.metrics if metric not in logged]
    if missing:
        return TrialResult("failed", error=f"{missing[0]} was never logged", mistake=True, logged=logged)
    means = [sum(run[metric] for run in results) / len(results) for metric in task.metrics]
    return TrialResult("complete", means, logged=logged)


def read_result(folder: Path) -> TrialResult | None:
    """Return the result that a trial has written to ``folder``, or None."""
    path = folder / "result.json"
    return TrialResult(**json.loads(path.read_text())) if path.is_file() else None


def write_task(task: TrialTask, folder: Path) -> None:
    """Write the task of a trial to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trial.json").write_text(json.dumps(asdict(task), indent=2) + "\n")


def main(folder: Path) -> None:
    """Run the trial that ``folder`` describes."""
    end_with_parent()
    task = TrialTask(**json.loads((folder / "trial.json").read_text()))
    try:
        result = run_trial(task, folder)
    except UserError as error:
        result = TrialResult("failed", error=str(error), mistake=True)
    except Exception as error:  # a trial that crashes is a result of the study
        traceback.print_exc()
        result = TrialResult("failed", error=f"{type(error).__name__}: {one_line(error)}")
    if not started_by_the_run(os.environ):  # the first rank writes for all
        partial = folder / "result.partial"
        partial.write_text(json.dumps(asdict(result), indent=2) + "\n")
        partial.replace(folder / "result.json")


def run_forked(folder: Path, variables: dict[str, str]) -> None:
    """Run the trial that ``folder`` describes in a forked process, with the given environment variables."""
    os.setsid()
    with (folder / "output.log").open("w") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(variables)
    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))  # on import, torch read the fork server's value
    main(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
