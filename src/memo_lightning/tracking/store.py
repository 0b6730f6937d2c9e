"""MLflow stores, where runs are kept."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from memo_lightning.errors import UserError
from memo_lightning.tracking.names import file_name
from memo_lightning.wording import one_line, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

_SQLITE = "sqlite:///"
TRACKING_URI, EXPERIMENT_NAME = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"  # MLflow's own variables
DEFAULT_STORE = "sqlite:///mlflow.db"  # in the working directory
_ARTIFACTS = "mlruns"  # the folder beside an SQLite store that holds the files of its runs
_ADDRESSES = "sqlite:///FILE, http://HOST:PORT or postgresql://USER@HOST/DATABASE"
_DATABASE_SERVERS = ("postgresql", "mysql", "mssql")

# Settings of MLflow's client in this process and those that it starts, unless the user has set them: by default, the
# client tries for minutes to reach a server that is not there, and draws a progress bar for every small file.
for name, value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "PGCONNECT_TIMEOUT": "5",  # of PostgreSQL's client library
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(name, value)

# Silenced: every table that a migration creates, every attempt to reach a server, and the stack trace of a failing
# database, whose error is raised as well.
for name, level in {
    "mlflow": logging.ERROR,
    "mlflow.store.db.utils": logging.CRITICAL,
    "alembic": logging.ERROR,
    "urllib3.connectionpool": logging.ERROR,
}.items():
    logging.getLogger(name).setLevel(level)

_VIEW = "memo"  # of the table of runs; the chosen columns are stored under this name
_COLUMNS = [
    "attributes.`Duration`",
    *(f"metrics.`{name}`" for name in ("train/return_per_trial", "train/episode_success")),
    "metrics.`wall_clock/frames_per_second`",
    *(f"tags.`{name}`" for name in ("memory", "environment", "seed")),
]
_VIEW_TAG = f"mlflow.sharedViewState.{_VIEW}"
# What MLflow's pages show of our experiments. Without the kind, they guess, and guess language models.
_EXPERIMENT_TAGS = {
    _VIEW_TAG: json.dumps({"selectedColumns": _COLUMNS}),
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "train/return_per_trial",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
    "mlflow.note.content": (
        "Reinforcement learning with long memory, by memo-lightning. Each run is one training, named after its memory, "
        "environment and seed. Steps are environment frames.\n\n"
        "| metrics | |\n|---|---|\n"
        "| `train/` | learning curves: return per trial, and by quarter of the trial |\n"
        "| `update/` | losses and other quantities of the algorithm |\n"
        "| `val/` | results of `memo evaluate`, by split, trial length and changed settings |\n"
        "| `wall_clock/` | frames per second, and the share of the time spent collecting |\n\n"
        "`memo compare` creates a table and a plot of the runs, with intervals over seeds."
    ),
}


def resolve_store(uri: str) -> str:
    """Return ``uri`` with a relative SQLite path made absolute, so that it means the same from any directory."""
    return f"{_SQLITE}{store_file(uri)}" if store_file(uri) else uri


def default_store() -> str:
    """Return the store of ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory."""
    return os.environ.get(TRACKING_URI) or DEFAULT_STORE


def describe_store(uri: str, experiment: str | None = None) -> str:
    """Return the description of a store for messages, without a password, and with the variables that chose it.

    A file in or below the working directory is named relative to it.

    Args:
        uri: address of the store.
        experiment: name of an experiment in the store, if only that is meant.
    """
    file, here = store_file(uri), Path.cwd()
    shown = f"{_SQLITE}{file.relative_to(here)}" if file and file.is_relative_to(here) else uri
    text = without_password(f"experiment {experiment} in {shown}" if experiment else shown)
    given = {TRACKING_URI: resolve_store(uri), EXPERIMENT_NAME: experiment}
    used = [name for name, value in given.items() if value and resolve_store(os.environ.get(name, "")) == value]
    return f"{text} ({', '.join(used)})" if used else text


def store_file(uri: str) -> Path | None:
    """Return the database file of an SQLite store, or None for other stores."""
    return Path(uri.removeprefix(_SQLITE)).absolute() if uri.startswith(_SQLITE) else None


def open_client(uri: str) -> MlflowClient:
    """Return MLflow's client for a store.

    MLflow keeps one connection for each address that a process has used. With a relative address, it would keep using
    the database of the directory that was current at first use.

    Raises:
        Exception: whatever the store's own libraries raise if it cannot be opened; see :func:`store_errors`. A database
            server that does not answer is told by the first attempt, where MLflow would silently make ten.
    """
    from mlflow import MlflowClient
    from sqlalchemy import NullPool, create_engine

    if re.match(rf"({'|'.join(_DATABASE_SERVERS)})[+:]", uri):
        create_engine(uri, poolclass=NullPool).connect().close()
    return MlflowClient(resolve_store(uri))


@contextmanager
def store_errors(uri: str, setting: str) -> Iterator[None]:
    """Turn whatever a store raises in the block into a :class:`UserError`, one line that names the setting.

    Args:
        uri: address of the store.
        setting: the setting as the user knows it, e.g. ``"tracking_uri"``.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except UserError:
        raise
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        raise unusable_store(uri, setting, error) from None


def unusable_store(uri: str, setting: str, error: Exception) -> UserError:
    """Return the error to show for a store whose libraries have raised ``error``."""
    if not _is_wrong_address(uri, error):
        driver = "; pip install 'memo-lightning[postgres]'" if isinstance(error, ImportError) else ""
        return UserError(f"{setting}={uri!r}: cannot be used ({one_line(error)}){driver}")
    remedy = ""
    if re.fullmatch(r"[\w.-]+:\d+", uri):
        remedy = f"; set {setting}=http://{uri}"
    elif "://" not in uri or uri.startswith("sqlite:"):
        file = re.sub(r"^sqlite:(//)?", "", uri)
        remedy = f"; set {setting}={DEFAULT_STORE if Path(file).is_dir() else _SQLITE + file}"
    return UserError(f"{setting}={uri!r}: cannot be used; must be {_ADDRESSES}{remedy}")


def is_permanent(error: Exception) -> bool:
    """Return whether a store has answered, so that it is pointless to try again: what was asked for is not there."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

    # A parameter is also invalid if it names what was deleted.
    codes = [ErrorCode.Name(code) for code in (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)]
    return isinstance(error, MlflowException) and error.error_code in codes


def _is_wrong_address(uri: str, error: Exception) -> bool:
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
    from mlflow.utils.uri import is_databricks_uri
    from sqlalchemy.exc import ArgumentError

    if isinstance(error, ArgumentError | UnsupportedModelRegistryStoreURIException):
        return True
    return "://" not in uri and not is_databricks_uri(uri)


def prepare_store(uri: str) -> None:
    """Create an SQLite store if there is none, such that several processes can write to it at once.

    MLflow's own creation of tables fails if two processes do it at the same time. With a write-ahead log, readers and a
    writer need not wait for each other; with a plain database they do, until they fail with ``database is locked``.

    Args:
        uri: address of the store; other kinds are left alone.
    """
    file = store_file(uri)
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        with closing(sqlite3.connect(file, timeout=60)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        open_client(uri).search_experiments(max_results=1)
        _follow_move(file)


def open_store(uri: str, setting: str) -> str:
    """Return the resolved ``uri`` of a store that must exist; looking for a store never creates one.

    Args:
        uri: address of the store.
        setting: the setting as the user knows it, e.g. ``"tracking_uri"``.

    Raises:
        UserError: if it is a file that does not exist.
    """
    file = store_file(uri)
    if file is None:
        return uri
    if not file.is_file():
        raise UserError(f"{setting}={uri}: no such store yet; memo train creates it, or choose another")
    _follow_move(file)
    return resolve_store(uri)


def store_of_run(uri: str, run_id: str, run_dir: Path) -> str | None:
    """Return the store that holds a run now: the one it was logged to or, if the project moved, one near its folder.

    Args:
        uri: the store that the run was logged to.
        run_id: the run's id in MLflow.
        run_dir: current folder of the run.

    Returns:
        The store, or None if no such SQLite file holds the run.
    """
    file = store_file(uri)
    if file is None:
        return uri
    near = (folder / file.name for folder in (*run_dir.absolute().parents, Path.cwd()))
    found = next((candidate for candidate in (*near, file) if _holds(candidate, run_id)), None)
    return open_store(f"{_SQLITE}{found}", "tracking_uri") if found else None


def no_store_of_run(uri: str, run_id: str) -> str:
    """Return the message for a run that :func:`store_of_run` does not find."""
    name = Path(uri).name
    return f"its run {run_id} is not in {uri}, nor in any {name} in the folders above it or the current folder"


def experiment_id_of(uri: str, name: str, setting: str = "logger.experiment_name") -> str:
    """Return the id of an MLflow experiment, which is created if there is none.

    Args:
        uri: address of the store.
        name: name of the experiment.
        setting: the setting as the user knows it.

    Raises:
        UserError: if the experiment is deleted.
    """
    from mlflow.exceptions import MlflowException

    prepare_store(uri)
    client = open_client(uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        file = store_file(uri)
        # By default, MLflow would put the files of the runs wherever the command runs.
        location = str(file.parent / _ARTIFACTS / file_name(name)) if file else None
        try:
            return client.create_experiment(name, location, _EXPERIMENT_TAGS)
        except MlflowException:  # another process was faster
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    check_not_deleted(client, experiment, setting)
    _describe(client, experiment)
    return experiment.experiment_id


def check_not_deleted(client: MlflowClient, experiment: Experiment, setting: str) -> None:
    """Raise a :class:`UserError` that says how to restore an experiment if it was deleted in MLflow's pages."""
    if experiment.lifecycle_stage == "deleted":
        command = _restore(client, "experiments", "--experiment-id", experiment.experiment_id)
        raise UserError(
            f"{setting}={experiment.name}: was deleted in MLflow; restore it with `{command}`, or choose another with "
            f"{setting}=NAME"
        )


def check_run_not_deleted(client: MlflowClient, run_id: str) -> None:
    """Raise a :class:`UserError` that says how to restore a run or its experiment if it was deleted.

    Raises:
        MlflowException: if there is no such run.
    """
    run = client.get_run(run_id)
    experiment = client.get_experiment(run.info.experiment_id)
    if experiment.lifecycle_stage == "deleted":  # and with it, its runs
        command = _restore(client, "experiments", "--experiment-id", experiment.experiment_id)
        raise UserError(f"run {run_id}: its experiment {experiment.name} was deleted in MLflow; restore: `{command}`")
    if run.info.lifecycle_stage == "deleted":
        command = _restore(client, "runs", "--run-id", run_id)
        raise UserError(f"run {run_id}: was deleted in MLflow; restore it with `{command}`")


def start_page(uri: str) -> str:
    """Return the path of MLflow's page for the runs last added to, with the columns that matter here.

    MLflow remembers in the browser whether it shows pages for language models or for training; the address decides.

    Args:
        uri: address of the store.
    """
    ours = [experiment for experiment in open_client(uri).search_experiments() if _VIEW_TAG in experiment.tags]
    runs = f"/{ours[0].experiment_id}/runs" if ours else ""
    return f"/#/experiments{runs}?workflowType=machine_learning" + (f"&viewStateShareKey={_VIEW}" if ours else "")


def _restore(client: MlflowClient, kind: str, *which: str) -> str:
    """Return the MLflow command that restores an experiment or a run, to be pasted into a shell."""
    return shlex.join(["env", f"MLFLOW_TRACKING_URI={client.tracking_uri}", "mlflow", kind, "restore", *which])


def _describe(client: MlflowClient, experiment: Experiment) -> None:
    """Tag an experiment as one of training runs, unless the user has tagged it otherwise."""
    for key, value in _EXPERIMENT_TAGS.items():
        if key not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, key, value)


def _holds(file: Path, run_id: str) -> bool:
    """Return whether a database holds a run, without changing it."""
    if not file.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
            return bool(connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone())
    except sqlite3.Error:
        return False


def _follow_move(file: Path) -> None:
    """Make a store that was moved or copied together with its ``mlruns`` find the files of its runs again.

    MLflow stores their absolute paths and has no command to change them. Only paths within a folder called ``mlruns``
    are changed: any other place for artifacts was chosen by someone, and stays. A read-only store is left as it is. If
    the file is not a database, MLflow says what is wrong with it.
    """
    with closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as connection, suppress(sqlite3.Error):
        moved = {}
        for experiment, location in connection.execute("SELECT experiment_id, artifact_location FROM experiments"):
            old = Path(location.removeprefix("file://"))
            new = file.parent / _ARTIFACTS / old.name
            if not old.is_absolute() or old.parent.name != _ARTIFACTS:  # such as s3://BUCKET/mlruns/1
                continue
            if old != new and (new.exists() or not old.exists()):
                moved[experiment] = (location, str(new))
        if not moved:
            return
        # A transaction that first reads and then writes fails at once if another process wrote in between; one that is
        # declared as writing from its beginning waits.
        connection.execute("BEGIN IMMEDIATE")
        for experiment, (location, place) in moved.items():
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (place, experiment)
            )
            for table, column in (("runs", "artifact_uri"), ("model_versions", "source")):
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (place, len(location) + 1, len(location) + 1, f"{location}/"),
                )
        connection.execute("COMMIT")
