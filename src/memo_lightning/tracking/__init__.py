"""Runs, evaluations and studies in MLflow.

MLflow takes longer to import than anything else here, so it is only imported where it is used. This is why
:class:`~memo_lightning.tracking.run_logger.RunLogger` is not imported here.
"""

from memo_lightning.tracking.code_version import code_tags
from memo_lightning.tracking.names import environment_name, file_name, memory_name, run_name
from memo_lightning.tracking.store import describe_store, resolve_store, store_file

__all__ = [
    "code_tags",
    "describe_store",
    "environment_name",
    "file_name",
    "memory_name",
    "resolve_store",
    "run_name",
    "store_file",
]
