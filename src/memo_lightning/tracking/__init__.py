"""MLflow: runs, comparison, plots."""

from memo_lightning.tracking.code_version import code_tags
from memo_lightning.tracking.run_logger import RunLogger, environment_name, memory_name
from memo_lightning.tracking.store import resolve_store, store_file

__all__ = [
    "RunLogger",
    "code_tags",
    "environment_name",
    "memory_name",
    "resolve_store",
    "store_file",
]
