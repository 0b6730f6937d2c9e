"""Where runs are kept."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from pathlib import Path

from filelock import FileLock

_SQLITE = "sqlite:///"
TRACKING_URI, EXPERIMENT_NAME = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"  # MLflow's own variables
DEFAULT_STORE = "sqlite:///mlflow.db"  # in the working directory

# Of MLflow's client in every command of this process and of those it starts, where the user has not set them:
# by default it tries for minutes to reach a server that is not there, and draws a bar for every small file.
for name, value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(name, value)

# Every table that a migration makes, every attempt to reach a server; of a failing database a stack trace, though
# the error is raised as well.
for name, level in {
    "mlflow": logging.ERROR,
    "mlflow.store.db.utils": logging.CRITICAL,
    "alembic": logging.ERROR,
    "urllib3.connectionpool": logging.ERROR,
}.items():
    logging.getLogger(name).setLevel(level)


def resolve_store(uri: str) -> str:
    """Return ``uri`` with a relative SQLite path made absolute, so that it means the same from any directory."""
    return f"{_SQLITE}{store_file(uri)}" if store_file(uri) else uri


def default_store() -> str:
    """Return the store of ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory."""
    return os.environ.get(TRACKING_URI) or DEFAULT_STORE


def describe_store(uri: str, experiment: str | None = None) -> str:
    """Return what a command says of where it looks or logs to, without a password, and which variables decided it.

    Args:
        uri: the store.
        experiment: name of the experiment in it, where only that is meant.
    """
    shown = re.sub(r"(//[^/:@]*):[^/@]*@", r"\1:***@", uri)
    text = f"experiment {experiment} in {shown}" if experiment else shown
    given = {TRACKING_URI: resolve_store(uri), EXPERIMENT_NAME: experiment}
    used = [name for name, value in given.items() if value and resolve_store(os.environ.get(name, "")) == value]
    return f"{text} ({', '.join(used)})" if used else text


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
    from mlflow import MlflowClient

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
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

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
