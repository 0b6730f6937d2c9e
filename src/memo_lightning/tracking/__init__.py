"""MLflow: runs, comparison, plots."""

from memo_lightning.tracking.run_logger import RunLogger
from memo_lightning.tracking.store import resolve_store, store_file

__all__ = ["RunLogger", "resolve_store", "store_file"]
