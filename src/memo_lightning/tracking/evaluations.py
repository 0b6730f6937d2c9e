"""What ``memo evaluate`` has measured, and how it is kept with the run in MLflow."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from memo_lightning.errors import UserError
from memo_lightning.tracking.names import file_name
from memo_lightning.tracking.store import check_run_not_deleted, open_client

FOLDER = "evaluation"  # of a run's artifacts; it holds a folder for each kind of evaluation
_PREFIX = "val"  # of the metrics: MLflow's pages sort by name, and learning curves, `train`, come first
_LONGEST = 150  # characters of a name; MLflow takes 250
# Changes to the environment that are no other measurement, or that the length of the trials says already.
_SAME_MEASUREMENT = {"trial_length", "workers", "step_timeout"}


@dataclass(frozen=True)
class EvaluationKind:
    """What was measured: evaluations of one kind can be compared with each other.

    Attributes:
        split: tasks that were drawn from.
        trial_length: steps of a trial.
        memory_budget: tokens that the memory was limited to, None for all.
        deterministic: whether the most likely action was taken.
        changes: settings that were not those of training, e.g. ``("env.lit=True",)``.
    """

    split: str
    trial_length: int
    memory_budget: int | None
    deterministic: bool
    changes: tuple[str, ...] = ()

    @classmethod
    def of(cls, evaluation: Mapping[str, Any]) -> EvaluationKind:
        """Return the kind of an evaluation, given as its ``evaluation.json``."""
        changes = [
            f"{group}.{name}={value}"
            for group in ("env", "model")
            for name, value in sorted(evaluation.get(group, {}).items())
            if not (group == "env" and name in _SAME_MEASUREMENT)
        ]
        return cls(
            evaluation["split"],
            evaluation["trial_length"],
            evaluation["memory_budget"],
            evaluation["deterministic"],
            tuple(changes),
        )

    @property
    def parts(self) -> list[str]:
        """What a name of it is made of, e.g. ``["held_out", "200_steps", "budget_8"]``."""
        parts = [self.split, f"{self.trial_length}_steps"]
        parts += [f"budget_{self.memory_budget}"] if self.memory_budget is not None else []
        parts += ["deterministic"] if self.deterministic else []
        return parts + [re.sub(r"[^\w.-]+", "_", change) for change in self.changes]

    def __str__(self) -> str:
        """Return it in words."""
        words = [f"{self.split} tasks, {self.trial_length:,} steps"]
        words += [f"newest {self.memory_budget} tokens of memory"] if self.memory_budget is not None else []
        words += ["most likely actions"] if self.deterministic else []
        return ", ".join([*words, *self.changes])


def log_evaluation(store: str, run_id: str, evaluation: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Add an evaluation to the run of its training; if that fails, say so on stderr.

    Its metrics are ``val/<split>/<length>_steps/...`` at the frames that the checkpoint was trained for. MLflow cannot
    replace a point. So an evaluation that comes to the same adds none, and one that comes to something else, from
    other trials, gets a name that says how many, in how many environments, and from which seed.

    Args:
        store: the store that holds the run.
        run_id: the run.
        evaluation: as in ``evaluation.json``.
        files: to be kept as artifacts, in place of those of the last evaluation of this kind.
    """
    kind, step = EvaluationKind.of(evaluation), evaluation["frames_trained"]
    values = {name: evaluation[name] for name in ("return_per_trial", "success", "spl") if name in evaluation}
    values |= {f"return_quarter_{k}": value for k, value in enumerate(evaluation["return_by_quarter"], start=1)}
    plain = _short("/".join([_PREFIX, *kind.parts]))
    sampling = "_".join(f"{name}_{evaluation[name]}" for name in ("n_trials", "n_envs", "seed"))
    client = open_client(store)
    try:
        check_run_not_deleted(client, run_id)
        for prefix in (plain, f"{plain}/{sampling}"):
            held = _held(client, run_id, prefix, values, step)
            if not held:
                for name, value in values.items():
                    client.log_metric(run_id, f"{prefix}/{name}", value, step=step)
            if not held or held == values:
                break
        else:
            print(
                f"metrics not logged to MLflow: {prefix} has others at {step:,} frames, from an evaluation with the "
                "same settings by other code or on another machine",
                file=sys.stderr,
            )
        for file in files:
            client.log_artifact(run_id, str(file), f"{FOLDER}/{file_name(_short('_'.join(kind.parts)))}")
    except (MlflowException, UserError) as error:
        print(f"not logged to MLflow: {str(error).splitlines()[0]}", file=sys.stderr)


def _held(client: MlflowClient, run_id: str, prefix: str, names: Mapping[str, float], step: int) -> dict[str, float]:
    """Return the values that the run has under ``prefix`` at this step."""
    points = {name: client.get_metric_history(run_id, f"{prefix}/{name}") for name in names}
    return {name: point.value for name, history in points.items() for point in history if point.step == step}


def _short(name: str) -> str:
    """Return ``name``, or as much as MLflow takes and what tells it from others that begin alike."""
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
