"""A run in MLflow."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger

# MLflow and its database migrations report every table they create.
for noisy in ("mlflow", "alembic"):
    logging.getLogger(noisy).setLevel(logging.WARNING)


class RunLogger(MLFlowLogger):
    """Lightning's MLflow logger, which also keeps files and tells a run that was interrupted from a failed one.

    Args:
        tracking_uri: the store, e.g. ``sqlite:///mlflow.db`` or ``http://...``.
        experiment_name: the MLflow experiment that holds the run.
        kwargs: further arguments of Lightning's ``MLFlowLogger``.
    """

    def __init__(self, *, tracking_uri: str, experiment_name: str, **kwargs: Any) -> None:
        super().__init__(experiment_name=experiment_name, tracking_uri=tracking_uri, **kwargs)

    def log_files(self, *paths: Path) -> None:
        """Store files as artifacts of the run."""
        for path in paths:
            self.experiment.log_artifact(self.run_id, str(path))

    def finalize(self, status: str = "success") -> None:
        """Close the run: FINISHED, FAILED, or KILLED where the user has interrupted it."""
        super().finalize("KILLED" if isinstance(sys.exception(), KeyboardInterrupt) else status)
