"""A run in MLflow."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
from lightning.pytorch.loggers import MLFlowLogger
from mlflow.entities import Metric
from omegaconf import DictConfig

from memo_lightning.errors import UserError
from memo_lightning.tracking.store import experiment_id_of

# MLflow reports every table that its database migrations create, Lightning every new experiment.
for noisy in (mlflow.__name__, "alembic", "lightning.pytorch.loggers.mlflow", "urllib3.connectionpool"):
    logging.getLogger(noisy).setLevel(logging.ERROR)

MAX_METRICS_PER_CALL = 1000  # MLflow's own limit


def memory_name(baseline: str) -> str:
    """Return what a run's memory is called: the baseline's name, or ``memo`` where nothing was swapped."""
    return "memo" if baseline == "none" else baseline


def environment_name(config: DictConfig | dict[str, Any]) -> str:
    """Return what a run's environment is called: the option of ``conf/env/``, or what a general one stands for."""
    env = config["env"]
    return env.get("id") or env.get("target") or config["choices"]["env"]


class RunLogger(MLFlowLogger):
    """Lightning's MLflow logger, for runs that must not end because their store does.

    While the store cannot be written, metrics are kept in ``<run_dir>/unsent_metrics.json`` and sent when it is back,
    at the latest when the run goes on. It also keeps files, and tells a run that was interrupted from a failed one.

    Args:
        tracking_uri: the store, e.g. ``sqlite:///mlflow.db`` or ``http://...``.
        experiment_name: the MLflow experiment that holds the run.
        run_dir: the run's folder.
        retry_seconds: time between attempts while the store cannot be written.
        kwargs: further arguments of Lightning's ``MLFlowLogger``.

    Raises:
        UserError: if the store cannot be used when the run begins.
    """

    def __init__(
        self,
        *,
        tracking_uri: str,
        experiment_name: str,
        run_dir: str | Path,
        retry_seconds: float = 30.0,
        **kwargs: Any,
    ) -> None:
        self.retry_seconds = retry_seconds
        self._unsent_path = Path(run_dir) / "unsent_metrics.json"
        self._unsent: list[Metric] = []
        self._failing, self._next_attempt = False, 0.0
        try:
            experiment_id_of(tracking_uri, experiment_name)
            super().__init__(experiment_name=experiment_name, tracking_uri=tracking_uri, **kwargs)
            self.experiment.update_run(self.run_id, status="RUNNING")  # connects, and creates the run if it is new
        except Exception as error:  # whatever the store's own library raises
            raise UserError(f"logger.tracking_uri={tracking_uri!r}: cannot be used ({_reason(error)})") from None
        if self._unsent_path.exists():
            self._unsent = [Metric(*point) for point in json.loads(self._unsent_path.read_text())]

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send metrics, with those that could not be sent before."""
        now = int(time.time() * 1000)
        self._unsent += [Metric(name, float(value), now, step or 0) for name, value in metrics.items()]
        if time.monotonic() >= self._next_attempt:
            self._attempt(self._send)

    def log_files(self, *paths: Path) -> None:
        """Store those of the files that exist as artifacts of the run."""

        def upload() -> None:
            for path in paths:
                if path.exists():
                    self.experiment.log_artifact(self.run_id, str(path))

        self._attempt(upload)

    def finalize(self, status: str = "success") -> None:
        """Close the run: FINISHED, FAILED, or KILLED where the user or the machine's has interrupted it."""
        status = "KILLED" if isinstance(sys.exception(), KeyboardInterrupt) else status
        self._attempt(self._send)
        self._attempt(lambda: super(RunLogger, self).finalize(status))
        if self._unsent:
            print(f"not in MLflow yet: {self._unsent_path}; sent when the run goes on", file=sys.stderr)

    def _send(self) -> None:
        while self._unsent:
            self.experiment.log_batch(self.run_id, metrics=self._unsent[:MAX_METRICS_PER_CALL], synchronous=True)
            del self._unsent[:MAX_METRICS_PER_CALL]
        self._unsent_path.unlink(missing_ok=True)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do something with the store; if that fails, keep what is unsent, and say so once."""
        try:
            action()
        except Exception as error:  # whatever the store's own library raises
            self._next_attempt = time.monotonic() + self.retry_seconds
            if not self._failing:
                print(
                    f"\nMLflow cannot be written ({_reason(error)}); training goes on, metrics are kept",
                    file=sys.stderr,
                )
            self._failing = True
            self._keep()
        else:
            if self._failing:
                print("\nMLflow can be written again", file=sys.stderr)
            self._failing = False

    def _keep(self) -> None:
        points = [(metric.key, metric.value, metric.timestamp, metric.step) for metric in self._unsent]
        with contextlib.suppress(OSError):  # on a full disk, memory still has them
            self._unsent_path.write_text(json.dumps(points))


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
