"""MLflow: runs, comparison, plots."""

from memo_lightning.tracking.run_logger import RunLogger

__all__ = ["RunLogger"]
