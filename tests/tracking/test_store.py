"""Stores under load: several processes at once, and a server over HTTP."""

import json
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from mlflow import MlflowClient

from memo_lightning.cli.main import main
from memo_lightning.errors import UserError
from memo_lightning.tracking.registry import fetch_checkpoint

WRITER = """
import sys
from memo_lightning.tracking.run_logger import RunLogger
store = {"tracking_uri": "sqlite:///mlflow.db", "experiment_name": "crowd", "run_dir": "."}
logger = RunLogger(**store, tags={"writer": sys.argv[1]})
for step in range(40):
    logger.log_metrics({"a": float(step), "b": -float(step)}, step)
logger.finalize("success")
"""

TINY = [
    "debug=smoke",
    "total_frames=960",
    "env.trial_length=40",
    "env.episode_length=10",
    "collector.n_envs=8",
    "model.d_model=16",
    "model.d_ff=32",
    "model.segment_length=10",
]


@pytest.mark.slow
def test_four_processes_make_one_store_and_lose_nothing(in_tmp_dir):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(k)], stderr=subprocess.PIPE, text=True) for k in range(4)
    ]
    for writer in writers:
        _, error = writer.communicate(timeout=300)
        assert writer.returncode == 0, error
        assert "locked" not in error
    client = MlflowClient(f"sqlite:///{in_tmp_dir}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("crowd").experiment_id])
    assert {run.data.tags["writer"] for run in runs} == {"0", "1", "2", "3"}
    for run in runs:
        assert run.info.status == "FINISHED"
        for name, sign in (("a", 1), ("b", -1)):
            history = client.get_metric_history(run.info.run_id, name)
            assert [(point.step, point.value) for point in history] == [(k, sign * k) for k in range(40)]


@pytest.fixture
def server(in_tmp_dir):
    """Start an MLflow tracking server on the loopback address and return its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{in_tmp_dir}/server.db", "--artifacts-destination", "artifacts"]
    with (in_tmp_dir / "server.log").open("w") as log:
        process = subprocess.Popen([*command, *store], stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        else:
            raise AssertionError((in_tmp_dir / "server.log").read_text())
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_a_run_is_tracked_registered_and_loaded_over_http(server, in_tmp_dir, capsys):
    assert main(["train", *TINY, "run_dir=run", f"logger.tracking_uri={server}"]) == 0
    metrics = json.loads((in_tmp_dir / "run" / "metrics.json").read_text())
    client = MlflowClient(server)
    history = client.get_metric_history(metrics["mlflow_run_id"], "train/return_per_trial")
    assert [point.value for point in history] == [point["return_per_trial"] for point in metrics["history"]]

    assert main(["register", "run_dir=run", "name=tiny"]) == 0
    assert "memo evaluate checkpoint=models:/tiny/1" in capsys.readouterr().out
    downloaded = fetch_checkpoint(server, "models:/tiny/1", in_tmp_dir / "download")
    assert downloaded.read_bytes() == (in_tmp_dir / "run" / "checkpoints" / "last.ckpt").read_bytes()
    evaluation = ["n_trials=6", "n_envs=4", f"tracking_uri={server}"]
    assert main(["evaluate", "checkpoint=models:/tiny/1", "run_dir=a", *evaluation]) == 0
    assert main(["evaluate", "checkpoint=run/checkpoints/last.ckpt", "run_dir=b", *evaluation]) == 0
    registered, local = (json.loads((in_tmp_dir / name / "evaluation.json").read_text()) for name in "ab")
    assert registered.pop("checkpoint") != local.pop("checkpoint")
    assert registered == local
    with pytest.raises(UserError, match="models:/tiny/9: cannot be fetched"):
        fetch_checkpoint(server, "models:/tiny/9", in_tmp_dir)


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
