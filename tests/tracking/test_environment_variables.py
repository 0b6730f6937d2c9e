"""MLflow's environment variables set the default store and experiment, and the output mentions them."""

import json

import pytest
from mlflow import MlflowClient
from omegaconf import OmegaConf

from memo_lightning.cli.main import main
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.tracking.store import default_store, describe_store
from tiny import TINY_TRAINING


@pytest.fixture
def variables(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///theirs.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "their experiment: é")


def test_they_are_the_defaults_of_every_command(variables):
    for name in ("compare", "ui", "doctor", "evaluate"):
        assert compose_config(name).tracking_uri == "sqlite:///theirs.db"
    for node in (compose_config("train").logger, compose_config("compare")):
        assert node.experiment_name == "their experiment: é"
    assert compose_config("train").logger.tracking_uri == default_store() == "sqlite:///theirs.db"
    given = compose_config("train", ["logger.tracking_uri=sqlite:///mine.db", "logger.experiment_name=mine"]).logger
    assert (given.tracking_uri, given.experiment_name) == ("sqlite:///mine.db", "mine")


def test_without_them_runs_are_logged_to_the_working_directory():
    assert compose_config("train").logger.tracking_uri == default_store() == "sqlite:///mlflow.db"
    assert compose_config("compare").experiment_name == "memo-lightning"


def test_an_empty_one_is_refused(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI='': must not be empty, .*unset MLFLOW_TRACKING_URI"):
        compose_config("ui")


def test_a_run_goes_there_says_so_and_keeps_it(variables, monkeypatch, in_tmp_dir, capsys):
    assert main(["train", *TINY_TRAINING, "total_frames=320", "run_dir=run"]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert "experiment their experiment: é in sqlite:///theirs.db " in first
    assert first.endswith("(MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME)")
    run_id = json.loads((in_tmp_dir / "run" / "metrics.json").read_text())["mlflow_run_id"]
    client = MlflowClient(f"sqlite:///{in_tmp_dir}/theirs.db")
    experiment = client.get_experiment(client.get_run(run_id).info.experiment_id)
    assert experiment.name == "their experiment: é"
    assert not (in_tmp_dir / "mlflow.db").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    logger = OmegaConf.load(in_tmp_dir / "run" / "config.yaml").logger
    assert (logger.tracking_uri, logger.experiment_name) == (f"sqlite:///{in_tmp_dir}/theirs.db", "their experiment: é")


def test_a_run_in_another_store_does_not_make_it_the_default(in_tmp_dir, capsys):
    overrides = ["total_frames=320", "run_dir=run", "logger.tracking_uri=sqlite:///other #1.db"]
    assert main(["train", *TINY_TRAINING, *overrides]) == 0
    assert compose_config("train").logger.tracking_uri == "sqlite:///mlflow.db"
    assert main(["doctor", "tracking_uri=sqlite:///other #1.db"]) == 0
    assert "other #1.db: reachable, 2 experiments" in capsys.readouterr().out


def test_a_password_is_not_printed(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/runs")
    assert describe_store(default_store()) == "postgresql://me:***@host/runs (MLFLOW_TRACKING_URI)"
    assert describe_store("http://host:5000", "mine") == "experiment mine in http://host:5000"


def test_a_file_below_the_working_directory_is_named_from_there(in_tmp_dir):
    assert describe_store(f"sqlite:///{in_tmp_dir}/runs/mlflow.db") == "sqlite:///runs/mlflow.db"
    assert describe_store("sqlite:////elsewhere/mlflow.db") == "sqlite:////elsewhere/mlflow.db"
