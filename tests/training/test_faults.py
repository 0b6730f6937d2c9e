"""What goes wrong in a run is said, survived where it can be, and never costs the last good checkpoint."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request

import pytest
import torch
from mlflow import MlflowClient

from memo_lightning.cli.main import main
from memo_lightning.evaluation.checkpoints import load_checkpoint

TINY = [
    "debug=smoke",
    "total_frames=1600",
    "env.trial_length=40",
    "env.episode_length=10",
    "collector.n_envs=8",
    "model.d_model=16",
    "model.d_ff=32",
    "model.segment_length=10",
    "run_dir=run",
]
CHECKPOINT = "run/checkpoints/last.ckpt"
# A reward that is not a number in the last step of some trials: it reaches the loss, but no observation.
BAD_REWARDS = """
from memo_lightning.envs import DarkKeyToDoor

class BadRewards(DarkKeyToDoor):
    steps = 0

    def _advance(self, action):
        reward, success = super()._advance(action)
        self.steps += 1
        if self.steps in BAD_STEPS:
            reward[:BAD_ROWS] = float("nan")
        return reward, success
"""


@pytest.fixture
def module(in_tmp_dir, monkeypatch):
    """Write a module that configurations can name."""
    monkeypatch.syspath_prepend(in_tmp_dir)

    def write(name, code):
        (in_tmp_dir / f"{name}.py").write_text(textwrap.dedent(code))

    yield write
    for name in ("faulty", "meddling"):
        sys.modules.pop(name, None)


def meddle(module, body):
    """Return the override that does something to the run after every rollout."""
    indented = textwrap.indent(textwrap.dedent(body), " " * 8)
    head = "import lightning, os, resource, signal, time\n\nclass Meddling(lightning.Callback):\n"
    hook = "    def on_train_batch_end(self, trainer, pl_module, *_):\n        done = pl_module.rollouts_done\n"
    module("meddling", head + hook + indented)
    return "+callbacks.meddling._target_=meddling.Meddling"


def mlflow_history(uri, name="update/entropy"):
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("memo-lightning").experiment_id])
    return [point.step for point in client.get_metric_history(run.info.run_id, name)], client, run


def test_updates_that_are_not_finite_are_skipped_and_counted(module, in_tmp_dir):
    module("faulty", BAD_REWARDS.replace("BAD_STEPS", "(80,)").replace("BAD_ROWS", "1"))
    assert main(["train", *TINY, "env._target_=faulty.BadRewards"]) == 0
    checkpoint = load_checkpoint(in_tmp_dir / CHECKPOINT)
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    _, client, run = mlflow_history(f"sqlite:///{in_tmp_dir}/mlflow.db")
    skipped = [point.value for point in client.get_metric_history(run.info.run_id, "update/skipped")]
    assert skipped == [0, 2, 2, 2, 2], "one of eight minibatches in both epochs of the second rollout"
    entropy = client.get_metric_history(run.info.run_id, "update/entropy")
    assert math.isfinite(entropy[-1].value)


def test_many_skipped_updates_end_the_run_and_name_the_first_bad_tensor(module, in_tmp_dir, capsys):
    module("faulty", BAD_REWARDS.replace("BAD_STEPS", "(80,)").replace("BAD_ROWS", "8"))
    assert main(["train", *TINY, "env._target_=faulty.BadRewards"]) == 1
    error = capsys.readouterr().err
    assert "10 updates in a row had a loss or gradient that is not finite" in error
    assert "first such tensor: rollout entry advantage; checkpoint: run/checkpoints/last.ckpt" in error
    assert "Traceback" not in error
    checkpoint = load_checkpoint(in_tmp_dir / CHECKPOINT)
    assert checkpoint["rollouts_done"] == 1
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_a_full_disk_does_not_end_the_run_and_nothing_is_lost(module, in_tmp_dir, capsys):
    """No file can grow past 40 kB after the second and the third of five rollouts."""
    limit = meddle(
        module,
        """
        soft = {2: 40_000, 4: resource.RLIM_INFINITY}.get(done)
        if soft:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
        """,
    )
    try:
        assert main(["train", *TINY, limit, "logger.retry_seconds=0"]) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    error = capsys.readouterr().err
    assert error.count("last.ckpt: cannot be written (File too large); keeping the last one") == 1
    assert error.count("last.ckpt: written again") == 1
    assert error.count("MLflow cannot be written") == error.count("MLflow can be written again") == 1
    assert load_checkpoint(in_tmp_dir / CHECKPOINT)["frames"] == 1600
    assert mlflow_history(f"sqlite:///{in_tmp_dir}/mlflow.db")[0] == [320, 640, 960, 1280, 1600]
    assert sorted(p.name for p in (in_tmp_dir / "run").rglob("*") if p.suffix in (".partial", ".json")) == [
        "metrics.json"
    ]


def test_a_disk_that_stays_full_is_an_error_and_the_last_checkpoint_is_good(module, in_tmp_dir, capsys):
    limit = meddle(
        module,
        """
        if done == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        """,
    )
    try:
        assert main(["train", *TINY, limit, "logger=none"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    error = capsys.readouterr().err
    assert "the report cannot be written (File too large); its figures:\n{" in error
    assert "the end of the run could not be saved (File too large)" in error
    assert load_checkpoint(in_tmp_dir / CHECKPOINT)["rollouts_done"] == 2


@pytest.mark.slow
def test_an_mlflow_server_that_dies_loses_nothing(module, in_tmp_dir, capsys):
    store, port = f"sqlite:///{in_tmp_dir}/store.db", 5417
    command = ["mlflow", "server", "--backend-store-uri", store, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--artifacts-destination", str(in_tmp_dir / "artifacts"), "--workers", "1"]
    server = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        kill = meddle(module, f"if done == 2:\n    os.killpg({server.pid}, signal.SIGKILL)")
        assert main(["train", *TINY, kill, f"logger.tracking_uri=http://127.0.0.1:{port}"]) == 0
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert capsys.readouterr().err.count("MLflow cannot be written") == 1
    assert (in_tmp_dir / "run" / "metrics.json").is_file()
    assert mlflow_history(store)[0][:1] == [320]
    unsent = json.loads((in_tmp_dir / "run" / "unsent_metrics.json").read_text())
    assert {step for _, _, _, step in unsent} >= {960, 1280, 1600}
    # The store is back, as it happens without the server.
    assert main(["train", "resume=run", "total_frames=1920", f"logger.tracking_uri={store}"]) == 0
    steps, _, run = mlflow_history(store)
    assert sorted(set(steps)) == [320, 640, 960, 1280, 1600, 1920]
    assert run.info.status == "FINISHED"
    assert not (in_tmp_dir / "run" / "unsent_metrics.json").exists()


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run(module, in_tmp_dir):
    kill = """
    if done == 1:
        type(self).died = time.monotonic()
        type(self).workers = trainer.datamodule._collector.procs
        os.kill(self.workers[1].pid, signal.SIGKILL)
    """
    with pytest.raises((RuntimeError, ConnectionError)):
        main(["train", *TINY, "collector=multi_sync", "logger=none", meddle(module, kill)])
    from meddling import Meddling

    assert time.monotonic() - Meddling.died < 30
    assert not any(worker.is_alive() for worker in Meddling.workers)
    assert load_checkpoint(in_tmp_dir / CHECKPOINT)["rollouts_done"] == 1


@pytest.mark.slow
def test_a_checkpoint_survives_a_kill_in_the_middle_of_the_next(tmp_path):
    code = """
    import sys, torch
    from pathlib import Path
    from memo_lightning.training.checkpoint_io import AtomicCheckpointIO
    path, number = Path(sys.argv[1]), 0
    while True:
        AtomicCheckpointIO().save_checkpoint({"number": number, "weights": torch.full((4_000_000,), number)}, path)
        number += 1
    """
    path = tmp_path / "last.ckpt"
    partial = path.with_suffix(".partial")
    caught = 0
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(path)])
        while not (path.exists() and partial.exists()):
            time.sleep(0.001)
        process.kill()
        process.wait()
        caught += partial.exists()
        content = torch.load(path, weights_only=True)
        assert (content["weights"] == content["number"]).all()
        if caught == 2:
            break
    assert caught == 2, "no kill came in the middle of writing"
