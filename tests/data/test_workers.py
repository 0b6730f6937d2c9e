"""Worker processes collect what one process would, with the newest weights, reproducibly, and exit together."""

import multiprocessing
import sys
import time

import pytest
import torch

from memo_lightning.cli.main import main
from memo_lightning.data import MultiAsyncDataModule, MultiSyncDataModule
from memo_lightning.errors import UserError
from memo_lightning.policies.checkpoint import read_checkpoint
from tiny import TINY_TRAINING

TINY = [
    *TINY_TRAINING,
    "total_frames=1280",
    "logger=none",
    "env._target_=breakable.Breakable",
]
# The first worker to see the file raises in the middle of a rollout.
BREAKABLE = """
import contextlib, os
from memo_lightning.envs import DarkKeyToDoor

class Breakable(DarkKeyToDoor):
    steps = 0

    def _advance(self, action):
        self.steps += 1
        if self.steps % 40 == 20:
            with contextlib.suppress(FileNotFoundError):
                os.rename("break", "broken")
                raise RuntimeError("the simulator has lost its marbles")
        return super()._advance(action)
"""
# Compares the policy with what the workers report, copies the run after a rollout, and makes a worker raise.
WITNESS = """
import lightning, os, shutil, torch

class Witness(lightning.Callback):
    seen, staleness, last = [], [], None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        policy, data = pl_module.policy, trainer.datamodule
        steps = batch["steps"]
        assert steps.shape == (8, 40 // data.n_chunks), steps.shape
        self.seen.append(steps["observation", "observation"].clone())
        so_far = pl_module.algorithm._rollout
        sequences = steps if so_far is None else torch.cat([so_far, steps], dim=1)
        assert sequences["is_init"][:, 0].all() and not sequences["is_init"][:, 1:].any()
        if data.seeds_each_rollout:
            with torch.no_grad():
                value = policy.heads.critic.module(policy.hidden(sequences, policy.sequence_model.segment_length))
            torch.testing.assert_close(steps["state_value"], value[:, -steps.shape[1]:], atol=1e-4, rtol=1e-4)
        if pl_module.rollouts_done == 1 and not pl_module.in_rollout and not os.path.exists("copy"):
            shutil.copytree("run", "copy")

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.staleness.append(float(trainer.callback_metrics.get("train/staleness", 0)))
        if pl_module.rollouts_done == self.last:
            open("break", "w").close()
"""


@pytest.fixture
def witness(in_tmp_dir, monkeypatch):
    (in_tmp_dir / "witness.py").write_text(WITNESS)
    (in_tmp_dir / "breakable.py").write_text(BREAKABLE)
    monkeypatch.syspath_prepend(in_tmp_dir)
    import witness

    yield witness.Witness
    for name in ("witness", "breakable"):
        sys.modules.pop(name, None)


def train_until_a_worker_raises(folder, capfd, *arguments):
    with pytest.raises((RuntimeError, ConnectionError)):
        main(["train", *arguments, "total_frames=1000000"])
    assert time.time() - (folder / "broken").stat().st_ctime < 30
    assert not multiprocessing.active_children()
    assert "RuntimeError: the simulator has lost its marbles" in capfd.readouterr().err


@pytest.mark.slow
def test_rollouts_of_workers_are_of_the_newest_weights_and_reproducible(in_tmp_dir, witness, capfd):
    watched = [*TINY, "collector=multi_sync", "+callbacks.witness._target_=witness.Witness"]
    recipe = ["collector.n_chunks=4", "algorithm.shuffle_episodes=true", "total_frames=960"]
    assert main(["train", *watched, *recipe, "run_dir=run"]) == 0
    chunks = list(witness.seen)
    assert len(chunks) == 12
    assert not torch.equal(chunks[0], chunks[4]), "every rollout has tasks of its own"
    assert not torch.equal(chunks[0][:4], chunks[0][4:]), "and every worker"
    witness.last = 3
    train_until_a_worker_raises(in_tmp_dir, capfd, "resume=copy")
    assert all(torch.equal(a, b) for a, b in zip(chunks[4:], witness.seen[12:20], strict=True))
    one, other = (read_checkpoint(in_tmp_dir / d / "checkpoints" / "last.ckpt") for d in ("run", "copy"))
    assert one["rollouts_done"] == other["rollouts_done"] == 3
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())


@pytest.mark.slow
def test_workers_that_do_not_wait_say_how_stale_their_rollouts_are(in_tmp_dir, witness, capfd):
    watched = [*TINY, "collector=multi_async", "+callbacks.witness._target_=witness.Witness"]
    witness.last = 8
    train_until_a_worker_raises(in_tmp_dir, capfd, *watched, "run_dir=run")
    assert read_checkpoint(in_tmp_dir / "run" / "checkpoints" / "last.ckpt")["rollouts_done"] >= 8
    assert all(-0.1 < value < 4 for value in witness.staleness), witness.staleness
    assert max(witness.staleness) > 0.5, "nobody waited"


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run(in_tmp_dir, witness):
    (in_tmp_dir / "breakable.py").write_text(BREAKABLE.replace("raise Run", "os.kill(os.getpid(), 9)  # Run"))
    witness.last = 1
    watched = [*TINY, "collector=multi_sync", "collector.n_workers=1", "+callbacks.witness._target_=witness.Witness"]
    with pytest.raises((RuntimeError, ConnectionError)):
        main(["train", *watched, "total_frames=1000000", "run_dir=run"])
    assert time.time() - (in_tmp_dir / "broken").stat().st_ctime < 30
    assert read_checkpoint(in_tmp_dir / "run" / "checkpoints" / "last.ckpt")["rollouts_done"] == 1


def test_settings_that_cannot_be_are_refused(make_env):
    settings = {"n_envs": 8, "rollout_length": 12, "n_chunks": 1, "total_frames": 96, "seed": 0}
    with pytest.raises(UserError, match=r"n_workers=3: must be a divisor of collector\.n_envs=8"):
        MultiSyncDataModule(make_env, n_workers=3, **settings)
    with pytest.raises(UserError, match="n_chunks=2: must be 1 with collector=multi_async"):
        MultiAsyncDataModule(make_env, n_workers=2, **{**settings, "n_chunks": 2})
