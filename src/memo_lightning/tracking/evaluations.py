"""Results of ``memo evaluate``, and how they are stored with the run in MLflow."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memo_lightning.errors import UserError
from memo_lightning.tracking.names import file_name
from memo_lightning.tracking.store import check_run_not_deleted, open_client, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "evaluation"  # of a run's artifacts; it holds a folder for each kind of evaluation
_PREFIX = "val"  # of the metrics: MLflow's pages sort by name, and learning curves, `train`, come first
_LONGEST = 150  # characters of a name; MLflow allows 250
# Changes to the environment that do not change what is measured, or that the trial length already expresses.
_SAME_MEASUREMENT = {"trial_length", "workers", "step_timeout"}


@dataclass(frozen=True)
class EvaluationKind:
    """The conditions of an evaluation; evaluations of one kind can be compared with each other.

    Attributes:
        split: the split that tasks were drawn from.
        trial_length: steps of a trial.
        memory_budget: tokens that the memory was limited to; None for no limit.
        deterministic: whether the most likely action was taken.
        changes: settings that differed from those of training, e.g. ``("env.lit=True",)``.
    """

    split: str
    trial_length: int
    memory_budget: int | None
    deterministic: bool
    changes: tuple[str, ...] = ()

    @classmethod
    def of(cls, evaluation: Mapping[str, Any]) -> EvaluationKind:
        """Return the kind of an evaluation, given the content of its ``evaluation.json``."""
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
        """The parts of its name, e.g. ``["held_out", "200_steps", "budget_8"]``."""
        parts = [self.split, f"{self.trial_length}_steps"]
        parts += [f"budget_{self.memory_budget}"] if self.memory_budget is not None else []
        parts += ["deterministic"] if self.deterministic else []
        return parts + [re.sub(r"[^\w.-]+", "_", change) for change in self.changes]

    def __str__(self) -> str:
        """Return the kind in words."""
        words = [f"{self.split} tasks, {self.trial_length:,} steps"]
        words += [f"newest {self.memory_budget} tokens of memory"] if self.memory_budget is not None else []
        words += ["most likely actions"] if self.deterministic else []
        return ", ".join([*words, *self.changes])


def log_evaluation(store: str, run_id: str, evaluation: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Add an evaluation to the MLflow run of its training; if that fails, say so on stderr.

    Its metrics are ``val/<split>/<length>_steps/...`` at the frames that the checkpoint was trained for. MLflow cannot
    replace a point. So an evaluation with the same results adds none, and one with different results, from other
    trials, gets a name with the number of trials, the number of environments and the seed.

    Args:
        store: the store that holds the run.
        run_id: id of the run.
        evaluation: content of ``evaluation.json``.
        files: files to store as artifacts, replacing those of the last evaluation of this kind.
    """
    kind, step = EvaluationKind.of(evaluation), evaluation["frames_trained"]
    values = {name: evaluation[name] for name in ("return_per_trial", "success", "spl") if name in evaluation}
    values |= {f"return_quarter_{k}": value for k, value in enumerate(evaluation["return_by_quarter"], start=1)}
    plain = _short("/".join([_PREFIX, *kind.parts]))
    sampling = "_".join(f"{name}_{evaluation[name]}" for name in ("n_trials", "n_envs", "seed"))
    try:
        with store_errors(store, "logger.tracking_uri"):
            client = open_client(store)
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
                    f"metrics not logged to MLflow: {prefix} has different values at {step:,} frames, from an "
                    "evaluation with the same settings but other code or another machine",
                    file=sys.stderr,
                )
            for file in files:
                client.log_artifact(run_id, str(file), f"{FOLDER}/{file_name(_short('_'.join(kind.parts)))}")
    except UserError as error:
        print(f"not logged to MLflow: {error}", file=sys.stderr)


def _held(client: MlflowClient, run_id: str, prefix: str, names: Mapping[str, float], step: int) -> dict[str, float]:
    """Return the values that the run already has under ``prefix`` at this step."""
    points = {name: client.get_metric_history(run_id, f"{prefix}/{name}") for name in names}
    return {name: point.value for name, history in points.items() for point in history if point.step == step}


def _short(name: str) -> str:
    """Return ``name``, truncated and made unique by a hash if it is too long."""
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
