"""Failures during a run are reported, survived where possible, and never cost the last good checkpoint.

For failures of processes, see also tests/training/test_launchers.py and tests/data/test_workers.py.
"""

import contextlib
import json
import math
import os
import resource
import signal
import sys
import textwrap
import threading

import pytest
from mlflow import MlflowClient
from werkzeug.serving import make_server

from memo_lightning.cli.main import main
from memo_lightning.errors import PREEMPTED
from memo_lightning.policies.checkpoint import read_checkpoint
from memo_lightning.training.run_dir import claimed_run_dir
from tiny import TINY_TRAINING

TINY = [
    *TINY_TRAINING,
    "total_frames=1600",
    "run_dir=run",
]
CHECKPOINT = "run/checkpoints/last.ckpt"
# A NaN reward in the last step of some trials: it reaches the loss but no observation.
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


def meddle(module, body, hook="on_train_batch_end"):
    """Return an override that interferes with the run after every rollout, or in another hook."""
    indented = textwrap.indent(textwrap.dedent(body), " " * 8)
    head = "import lightning, os, resource, signal, sqlite3, time\n\n"
    head += "class Meddling(lightning.Callback):\n    seen = []\n\n"
    start = f"    def {hook}(self, trainer, pl_module, *_, **__):\n        done = pl_module.rollouts_done\n"
    module("meddling", head + start + indented)
    return "+callbacks.meddling._target_=meddling.Meddling"


def mlflow_history(uri, name="update/entropy"):
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("memo-lightning").experiment_id])
    return [point.step for point in client.get_metric_history(run.info.run_id, name)], client, run


def test_updates_that_are_not_finite_are_skipped_and_counted(module, in_tmp_dir):
    module("faulty", BAD_REWARDS.replace("BAD_STEPS", "(80,)").replace("BAD_ROWS", "1"))
    record = meddle(module, 'self.seen.append([float(trainer.logged_metrics[f"update/{n}"]) for n in NAMES])')
    (in_tmp_dir / "meddling.py").open("a").write('\nNAMES = ("skipped", "entropy")\n')
    tiny = [*TINY, "logger=none", record, "env._target_=faulty.BadRewards"]
    assert main(["train", *tiny, "total_frames=960"]) == 0
    checkpoint = read_checkpoint(in_tmp_dir / CHECKPOINT)
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    assert main(["train", "resume=run", "total_frames=1280"]) == 0
    from meddling import Meddling

    skipped, entropy = zip(*Meddling.seen, strict=True)
    assert skipped == (0, 4, 4, 4), "one of eight minibatches in all four epochs of the second rollout"
    assert math.isfinite(entropy[-1])


def test_many_skipped_updates_end_the_run_and_name_the_first_bad_tensor(module, in_tmp_dir, capsys):
    module("faulty", BAD_REWARDS.replace("BAD_STEPS", "(80,)").replace("BAD_ROWS", "8"))
    assert main(["train", *TINY, "logger=none", "env._target_=faulty.BadRewards"]) == 1
    error = capsys.readouterr().err
    assert "10 updates in a row had a non-finite loss or gradient" in error
    assert "first non-finite tensor: environment reward; checkpoint: run/checkpoints/last.ckpt" in error
    assert "Traceback" not in error
    checkpoint = read_checkpoint(in_tmp_dir / CHECKPOINT)
    assert checkpoint["rollouts_done"] == 1
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_a_reward_that_is_not_a_number_is_called_one(module, in_tmp_dir, capsys):
    """Here the reward is NaN within trials, so it also reaches the policy as an input."""
    module("faulty", BAD_REWARDS.replace("BAD_STEPS", "(45,)").replace("BAD_ROWS", "3"))
    tiny = [*TINY, "logger=none", "env._target_=faulty.BadRewards"]
    assert main(["train", *tiny]) == 1
    assert "memo: the reward of environment 0 is nan: must be finite; checkpoint" in capsys.readouterr().err
    assert main(["check-env", *tiny, "env.trial_length=50"]) == 2
    assert "the reward is nan after step 45 in environment 0; must be finite\n" in capsys.readouterr().out


def test_a_full_disk_does_not_end_the_run_and_nothing_is_lost(module, in_tmp_dir, capsys):
    """After the second and third of five rollouts, no file can grow beyond 40 kB."""
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
    assert error.count("last.ckpt: cannot be written (File too large); keeping the last checkpoint") == 1
    assert error.count("last.ckpt: can be written again") == 1
    assert error.count("cannot write to MLflow") == error.count("can write to MLflow again") == 1
    assert read_checkpoint(in_tmp_dir / CHECKPOINT)["frames"] == 1600
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
    assert "the report cannot be written (File too large); its metrics:\n{" in error
    assert "the final state could not be saved (File too large)" in error
    assert read_checkpoint(in_tmp_dir / CHECKPOINT)["rollouts_done"] == 2


@contextlib.contextmanager
def mlflow_server(store, monkeypatch):
    """Run MLflow's server in a thread; yield its address and a function that stops it."""
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", store)
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "artifacts")
    from mlflow.server import app, handlers

    monkeypatch.setattr(handlers, "_tracking_store", None)  # it caches the first store it was asked for
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def end():
        server.shutdown()
        server.server_close()

    try:
        yield f"http://127.0.0.1:{server.server_port}", end
    finally:
        end()
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # the server sets it to its own store


def test_an_mlflow_server_that_goes_away_loses_nothing(module, in_tmp_dir, monkeypatch, capsys):
    store = f"sqlite:///{in_tmp_dir}/store.db"
    with mlflow_server(store, monkeypatch) as (address, end):
        stop = meddle(module, "if done == 2:\n    self.seen[0]()")
        import meddling

        meddling.Meddling.seen.append(end)
        assert main(["train", *TINY, stop, "total_frames=960", f"logger.tracking_uri={address}"]) == 0
    assert capsys.readouterr().err.count("cannot write to MLflow") == 1
    assert (in_tmp_dir / "run" / "metrics.json").is_file()
    assert mlflow_history(store)[0][:1] == [320]
    unsent = json.loads((in_tmp_dir / "run" / "unsent_metrics.json").read_text())
    assert {step for _, _, _, step in unsent} >= {960}
    # The run resumes without the store, and then with it (here directly, without the server).
    assert main(["train", "resume=run", "total_frames=1280"]) == 0
    assert capsys.readouterr().err.count("cannot write to MLflow") == 1
    assert main(["train", "resume=run", "total_frames=1600", f"logger.tracking_uri={store}"]) == 0
    steps, _, run = mlflow_history(store)
    assert steps == [320, 640, 960, 1280, 1600]
    assert run.info.status == "FINISHED"
    assert not (in_tmp_dir / "run" / "unsent_metrics.json").exists()


def test_training_does_not_wait_for_a_locked_store(module, in_tmp_dir):
    """Another process holds the database lock during all rollouts except the first."""
    lock = meddle(
        module,
        """
        if done == 1:
            self.connection = sqlite3.connect("mlflow.db", isolation_level=None)
            self.connection.execute("BEGIN EXCLUSIVE")
            self.start = time.monotonic()
        if done == 5:
            self.seen.append(time.monotonic() - self.start)
            self.connection.close()
        """,
    )
    assert main(["train", *TINY, lock]) == 0
    from meddling import Meddling

    assert Meddling.seen[0] < 15, "MLflow waits for 20 s"
    assert mlflow_history(f"sqlite:///{in_tmp_dir}/mlflow.db")[0] == [320, 640, 960, 1280, 1600]


def test_sigterm_before_training_is_said(module, in_tmp_dir, capsys):
    """The signal arrives while the environment is being built."""
    at_once = "os.kill(os.getpid(), signal.SIGTERM)"
    module("faulty", f"import os, signal\n\ndef make(*args, **settings):\n    {at_once}\n")
    assert main(["train", *TINY, "logger=none", "env._target_=faulty.make"]) == PREEMPTED
    error = capsys.readouterr().err
    assert error == "memo: stopped by SIGTERM before training began\n"
    assert not (in_tmp_dir / "run").exists()


def test_sigterm_before_the_report_leaves_that_to_the_run_that_goes_on(module, in_tmp_dir, capsys):
    body = "self.seen.append(done)\nif len(self.seen) == 1:\n    os.kill(os.getpid(), signal.SIGTERM)"
    stop = meddle(module, body, hook="on_train_end")
    tiny = [*TINY, "logger=none", "total_frames=320"]
    assert main(["train", *tiny, stop]) == PREEMPTED
    assert "preempted; checkpoint: run/checkpoints/last.ckpt\nnext: memo train resume=run" in capsys.readouterr().err
    assert not (in_tmp_dir / "run" / "metrics.json").exists()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert main(["train", "resume=run"]) == 0
    assert (in_tmp_dir / "run" / "metrics.json").is_file()


def test_a_run_folder_is_one_process_s(in_tmp_dir, capsys):
    tiny = [*TINY, "logger=none", "total_frames=320"]
    with claimed_run_dir(in_tmp_dir / "run"):
        assert main(["train", *tiny]) == 2
        assert "run_dir=run: another process is training in it" in capsys.readouterr().err
        assert not (in_tmp_dir / "run" / "config.yaml").exists()
    assert not (in_tmp_dir / "run").exists(), "nothing was written"
    assert main(["train", *tiny]) == 0
    assert not (in_tmp_dir / "run" / "run.lock").exists()
