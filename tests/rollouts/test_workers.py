"""Worker processes collect what one process would, with the newest weights, reproducibly."""

import sys

import pytest
import torch

from memo_lightning.cli.main import main
from memo_lightning.errors import UserError
from memo_lightning.evaluation.checkpoints import load_checkpoint
from memo_lightning.rollouts import MultiAsyncDataModule, MultiSyncDataModule

TINY = [
    "debug=smoke",
    "total_frames=1280",
    "env.trial_length=40",
    "env.episode_length=10",
    "collector.n_envs=8",
    "model.d_model=16",
    "model.d_ff=32",
    "model.segment_length=10",
    "logger=none",
]
# Holds the policy against what the workers say it did, and keeps a copy of the run after two rollouts.
WITNESS = """
import lightning, shutil, torch

class Witness(lightning.Callback):
    seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        policy, data = pl_module.policy, trainer.datamodule
        assert batch.shape == (8, 40 // data.n_chunks), batch.shape
        self.seen.append(batch["observation"].clone())
        rows = torch.cat([pl_module._rollout, batch], dim=1) if pl_module.in_rollout else batch
        assert rows["is_init"][:, 0].all() and not rows["is_init"][:, 1:].any()
        if data.seeds_each_rollout:
            with torch.no_grad():
                value = policy.critic.module(policy.hidden(rows, policy.sequence_model.segment_length))
            torch.testing.assert_close(batch["state_value"], value[:, -batch.shape[1]:], atol=1e-4, rtol=1e-4)
        if pl_module.rollouts_done == 2 and not pl_module.in_rollout and len(self.seen) < 12:
            shutil.copytree("run", "copy")
"""


@pytest.fixture
def witness(in_tmp_dir, monkeypatch):
    (in_tmp_dir / "witness.py").write_text(WITNESS)
    monkeypatch.syspath_prepend(in_tmp_dir)
    import witness

    yield witness.Witness
    del sys.modules["witness"]


@pytest.mark.slow
def test_rollouts_of_workers_are_of_the_newest_weights_and_reproducible(in_tmp_dir, witness):
    watched = [*TINY, "collector=multi_sync", "+callbacks.witness._target_=witness.Witness"]
    recipe = ["collector.n_chunks=4", "algorithm.shuffle_episodes=true"]
    assert main(["train", *watched, *recipe, "run_dir=run"]) == 0
    chunks = list(witness.seen)
    assert len(chunks) == 16
    assert not torch.equal(chunks[0], chunks[4]), "every rollout has tasks of its own"
    assert not torch.equal(chunks[0][:4], chunks[0][4:]), "and every worker"
    assert main(["train", "resume=copy"]) == 0
    assert all(torch.equal(a, b) for a, b in zip(chunks[8:], witness.seen[16:], strict=True))
    one, other = (load_checkpoint(in_tmp_dir / d / "checkpoints" / "last.ckpt")["state_dict"] for d in ("run", "copy"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
def test_workers_that_do_not_wait_say_how_stale_their_rollouts_are(in_tmp_dir, witness, monkeypatch):
    staleness = []
    from memo_lightning.callbacks import RolloutMetrics

    original = RolloutMetrics.on_train_batch_end

    def record(self, trainer, *arguments):
        original(self, trainer, *arguments)
        staleness.append(float(trainer.callback_metrics["train/staleness"]))

    monkeypatch.setattr(RolloutMetrics, "on_train_batch_end", record)
    watched = [*TINY, "collector=multi_async", "+callbacks.witness._target_=witness.Witness"]
    assert main(["train", *watched, "total_frames=2560", "run_dir=run"]) == 0
    assert len(staleness) == 8
    assert all(-0.1 < value < 4 for value in staleness), staleness
    assert max(staleness) > 0.5, "nobody waited"


def test_settings_that_cannot_be_are_refused(make_env):
    settings = {"n_envs": 8, "rollout_length": 12, "n_chunks": 1, "total_frames": 96, "seed": 0}
    with pytest.raises(UserError, match=r"n_workers=3: must be a divisor of collector\.n_envs=8"):
        MultiSyncDataModule(make_env, n_workers=3, **settings)
    with pytest.raises(UserError, match="n_chunks=2: must be 1 with multi_async"):
        MultiAsyncDataModule(make_env, n_workers=2, **{**settings, "n_chunks": 2})
