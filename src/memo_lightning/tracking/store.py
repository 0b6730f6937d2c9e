"""Where runs are kept."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

_SQLITE = "sqlite:///"
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for every file of a few kilobytes
# MLflow's own patience is minutes per call, in which a command would say nothing, and nothing would be trained.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def resolve_store(uri: str) -> str:
    """Return ``uri`` with a relative SQLite path made absolute, so that it means the same from any directory."""
    return f"{_SQLITE}{store_file(uri)}" if store_file(uri) else uri


def store_file(uri: str) -> Path | None:
    """Return the database file of an SQLite store, None for other stores."""
    return Path(uri.removeprefix(_SQLITE)).absolute() if uri.startswith(_SQLITE) else None


def prepare_store(uri: str) -> None:
    """Make an SQLite store where there is none, such that several processes can write to it at once.

    MLflow's own way of making its tables fails where two processes do so together. A write-ahead log lets readers
    and a writer go on beside each other, which with a plain database wait until they run into ``database is locked``.

    Args:
        uri: a store; other kinds are left alone.
    """
    file = store_file(uri)
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        connection = sqlite3.connect(file, timeout=60)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
        MlflowClient(uri).search_experiments(max_results=1)


def experiment_id_of(uri: str, name: str) -> str:
    """Return the id of an MLflow experiment, which is made where there is none.

    It is marked as one of trainings: MLflow's pages would guess otherwise, and show those for language models.

    Args:
        uri: the store.
        name: of the experiment.
    """
    prepare_store(uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    if experiment:
        return experiment.experiment_id
    try:
        return client.create_experiment(name, tags={"mlflow.experimentKind": "custom_model_development"})
    except MlflowException:  # another process was faster, or the experiment is deleted, which the caller will find
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return experiment.experiment_id
