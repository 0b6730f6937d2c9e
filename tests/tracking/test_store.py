"""Stores that several processes write at once, that do not answer, or that are none."""

import json
import multiprocessing
import time

import pytest
from mlflow import MlflowClient

from memo_lightning.cli.main import main
from memo_lightning.tracking import code_tags
from memo_lightning.tracking.run_logger import RunLogger
from tiny import TINY_TRAINING

TINY = [
    *TINY_TRAINING,
    "total_frames=640",
]


def write(writer: int) -> None:
    """Log a run as a training does."""
    logger = RunLogger(
        tracking_uri="sqlite:///mlflow.db", experiment_name="crowd", run_dir=f"{writer}", tags={"writer": str(writer)}
    )
    for step in range(40):
        logger.log_metrics({"a": float(step), "b": -float(step)}, step)
    logger.finalize("success")


@pytest.mark.slow
def test_four_processes_make_one_store_and_lose_nothing(in_tmp_dir, capfd):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["memo_lightning.tracking"])
    writers = [context.Process(target=write, args=(writer,)) for writer in range(4)]
    for writer in writers:
        (in_tmp_dir / str(writers.index(writer))).mkdir()
        writer.start()
    for writer in writers:
        writer.join(300)
        assert writer.exitcode == 0
    assert "locked" not in capfd.readouterr().err
    client = MlflowClient(f"sqlite:///{in_tmp_dir}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("crowd").experiment_id])
    assert {run.data.tags["writer"] for run in runs} == {"0", "1", "2", "3"}
    for run in runs:
        assert run.info.status == "FINISHED"
        for name, sign in (("a", 1), ("b", -1)):
            history = client.get_metric_history(run.info.run_id, name)
            assert [(point.step, point.value) for point in history] == [(k, sign * k) for k in range(40)]


def test_a_run_is_tagged_with_the_code_it_was_made_with(in_tmp_dir):
    assert main(["train", *TINY, "run_dir=run"]) == 0
    run_id = json.loads((in_tmp_dir / "run" / "metrics.json").read_text())["mlflow_run_id"]
    tags = MlflowClient(f"sqlite:///{in_tmp_dir}/mlflow.db").get_run(run_id).data.tags
    assert tags["code"] == code_tags()["code"]
    if "mlflow.source.git.commit" in code_tags():  # a checkout, and not an installed package
        assert tags["code"].startswith(tags["mlflow.source.git.commit"])


def test_a_server_that_does_not_answer_is_one_line_and_soon(in_tmp_dir, capsys):
    begin = time.monotonic()
    assert main(["compare", "tracking_uri=http://127.0.0.1:1"]) == 2
    assert "tracking_uri=http://127.0.0.1:1: cannot be read" in capsys.readouterr().err
    assert main(["doctor", "tracking_uri=http://127.0.0.1:1"]) == 2
    assert "bad   mlflow           http://127.0.0.1:1: does not answer" in capsys.readouterr().out
    assert time.monotonic() - begin < 60, "MLflow alone tries for minutes"


def test_a_store_that_is_no_database_is_one_line(in_tmp_dir, capsys):
    (in_tmp_dir / "mlflow.db").write_text("this is no database, and it is longer than a header")
    assert main(["train", *TINY, "run_dir=run"]) == 2
    assert "logger.tracking_uri" in capsys.readouterr().err
    assert not (in_tmp_dir / "run").exists()


def test_what_cannot_be_registered_is_one_line(in_tmp_dir, capsys):
    for arguments, message in {
        ("run_dir=run",): "name=None: must be the name of a model",
        ("run_dir=run", "name=x"): "run_dir=run: must be the folder of a finished run",
    }.items():
        assert main(["register", *arguments]) == 2
        assert message in capsys.readouterr().err
