"""A run in MLflow."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import mlflow
from lightning.pytorch.loggers import MLFlowLogger

from memo_lightning.errors import UserError
from memo_lightning.tracking.store import prepare_store

# MLflow reports every table that its database migrations create, Lightning every new experiment.
for noisy in (mlflow.__name__, "alembic", "lightning.pytorch.loggers.mlflow"):
    logging.getLogger(noisy).setLevel(logging.ERROR)


def memory_name(baseline: str) -> str:
    """Return what a run's memory is called: the baseline's name, or ``memo`` where nothing was swapped."""
    return "memo" if baseline == "none" else baseline


class RunLogger(MLFlowLogger):
    """Lightning's MLflow logger, which also keeps files and tells a run that was interrupted from a failed one.

    Args:
        tracking_uri: the store, e.g. ``sqlite:///mlflow.db`` or ``http://...``.
        experiment_name: the MLflow experiment that holds the run.
        kwargs: further arguments of Lightning's ``MLFlowLogger``.

    Raises:
        UserError: if the store cannot be used.
    """

    def __init__(self, *, tracking_uri: str, experiment_name: str, **kwargs: Any) -> None:
        try:
            prepare_store(tracking_uri)
            super().__init__(experiment_name=experiment_name, tracking_uri=tracking_uri, **kwargs)
            self.experiment.update_run(self.run_id, status="RUNNING")  # connects, and creates the run if it is new
        except Exception as error:  # whatever the store's own library raises
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"logger.tracking_uri={tracking_uri!r}: cannot be used ({reason})") from None

    def log_files(self, *paths: Path) -> None:
        """Store files as artifacts of the run."""
        for path in paths:
            self.experiment.log_artifact(self.run_id, str(path))

    def finalize(self, status: str = "success") -> None:
        """Close the run: FINISHED, FAILED, or KILLED where the user has interrupted it."""
        super().finalize("KILLED" if isinstance(sys.exception(), KeyboardInterrupt) else status)
