"""The logger of a run keeps what the store does not accept, never delays training, and loses nothing."""

import contextlib
import os
import socket
import sqlite3
import time

import pytest
from mlflow import MlflowClient
from sqlalchemy import event
from sqlalchemy.engine import Engine

from memo_lightning.errors import UserError
from memo_lightning.tracking.run_logger import RunLogger


@pytest.fixture
def uri(in_tmp_dir):
    return f"sqlite:///{in_tmp_dir}/mlflow.db"


@pytest.fixture
def make_logger(uri, in_tmp_dir):
    def make(**settings):
        return RunLogger(
            **{"tracking_uri": uri, "experiment_name": "runs", "run_dir": in_tmp_dir, "retry_seconds": 0.0, **settings}
        )

    return make


@contextlib.contextmanager
def locked(in_tmp_dir):
    """Hold the store's lock, like a process that was suspended while writing."""
    connection = sqlite3.connect(in_tmp_dir / "mlflow.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


@pytest.fixture
def impatient():
    """Make MLflow wait 1 s instead of 20 s for a lock, which it has no setting for."""

    def shorten(connection, cursor, statement, parameters, context, executemany):
        return statement.replace("busy_timeout = 20000", "busy_timeout = 1000"), parameters

    event.listen(Engine, "before_cursor_execute", shorten, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", shorten)


def history(uri, run_id, name="a"):
    return [(point.step, point.value) for point in MlflowClient(uri).get_metric_history(run_id, name)]


def test_a_locked_store_does_not_make_training_wait_and_is_said_in_one_line(
    make_logger, uri, in_tmp_dir, impatient, capsys
):
    logger = make_logger()
    with locked(in_tmp_dir):
        start = time.monotonic()
        for step in range(3):
            logger.log_metrics({"a": 1.0}, step)
        assert time.monotonic() - start < 0.5
        while not (error := capsys.readouterr().err):
            assert time.monotonic() - start < 30.0
            time.sleep(0.1)
    assert error == "\ncannot write to MLflow (database is locked); training continues, metrics are kept\n"
    logger.log_hyperparams({"gamma": 0.9})
    logger.finalize()
    assert history(uri, logger.run_id) == [(0, 1.0), (1, 1.0), (2, 1.0)]
    run = MlflowClient(uri).get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"gamma": "0.9"}
    assert not (in_tmp_dir / "unsent_metrics.json").exists()


def test_what_a_killed_run_had_not_sent_is_sent_once_when_it_goes_on(make_logger, uri):
    logger = make_logger()
    logger.log_metrics({"a": 1.0}, 1)
    saved = logger.unsent({"a": 2.0}, 2)  # in the checkpoint, before Lightning logs them
    logger.finalize()
    assert history(uri, logger.run_id) == [(1, 1.0)], "killed between the checkpoint and the logging"
    for _ in range(2):  # it resumes twice from the same checkpoint
        make_logger(run_id=logger.run_id, unsent=saved).finalize()
        assert history(uri, logger.run_id) == [(1, 1.0), (2, 2.0)]


def test_a_run_goes_on_while_its_server_is_away_but_none_begins(make_logger, uri, in_tmp_dir, capsys):
    logger = make_logger()
    logger.finalize()
    with socket.socket() as probe:  # bound, but not listening
        probe.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{probe.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(UserError, match=f"logger.tracking_uri='{away}': cannot be used"):
            make_logger(tracking_uri=away)
        going_on = make_logger(tracking_uri=away, run_id=logger.run_id)
        going_on.log_metrics({"a": 1.0}, 1)
        assert going_on.run_id == logger.run_id
        going_on.finalize()
        assert time.monotonic() - start < 30.0, "MLflow's own patience is minutes"
    error = capsys.readouterr().err
    assert error.count("cannot write to MLflow") == 1
    assert "unsent_metrics.json; sent when the run is resumed" in error
    make_logger(run_id=logger.run_id).finalize()
    assert history(uri, logger.run_id) == [(1, 1.0)]


def test_a_run_that_the_store_does_not_hold_cannot_be_resumed(make_logger, in_tmp_dir):
    with pytest.raises(UserError, match="no such store yet"):
        make_logger(run_id="ab")
    assert not list(in_tmp_dir.iterdir()), "looking for a run makes no store"
    make_logger().finalize()
    with pytest.raises(UserError, match="Run with id=ab not found"):
        make_logger(run_id="ab")


def test_kept_metrics_that_cannot_be_read_are_said_in_one_line(make_logger, in_tmp_dir, capsys):
    (in_tmp_dir / "unsent_metrics.json").write_text('[["a", 1.0')
    make_logger().finalize()
    error = capsys.readouterr().err
    assert "unsent_metrics.json: cannot be read" in error
    assert error.count("\n") == 1


def test_a_file_that_cannot_be_stored_holds_up_nothing_else(make_logger, uri, in_tmp_dir, capsys):
    logger = make_logger()
    (in_tmp_dir / "mlruns").write_text("a file where MLflow's folder of artifacts should be")
    logger.log_files(in_tmp_dir / "mlflow.db")
    logger.log_metrics({"a": 1.0}, 1)
    logger.finalize()
    assert capsys.readouterr().err.count("cannot write to MLflow") == 1
    assert history(uri, logger.run_id) == [(1, 1.0)]
    assert MlflowClient(uri).get_run(logger.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("variable", [None, "sqlite:///mine.db"])
def test_a_run_does_not_choose_the_store_of_later_ones(make_logger, in_tmp_dir, monkeypatch, variable):
    """MLflow's variable is the default of logger.tracking_uri and keeps the value that the user gave it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if variable:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    make_logger(tracking_uri=f"sqlite:///{in_tmp_dir}/other.db").finalize()
    assert os.environ.get("MLFLOW_TRACKING_URI") == variable
