"""Rollouts reach the Trainer one at a time, collected with the current weights."""

import lightning
import pytest
import torch

from memo_lightning.data import RolloutDataModule
from memo_lightning.errors import UserError


class Recorder(lightning.LightningModule):
    """Changes a weight after every rollout and records which weight collected each rollout."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy
        self.automatic_optimization = False
        self.lags, self.rollouts, self.following = [], [], []
        self.rollouts_done = self.frames = 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch, batch_idx):
        collected_with = batch["steps"]["state_value"][0, 0].item()
        self.lags.append(batch_idx - collected_with)
        self.rollouts.append(batch["steps"].clone())
        self.following.append(batch["after"].clone())
        with torch.no_grad():
            self.policy.heads.critic.module.bias += 1  # the value of every state, as all other weights are zero


def fit(module, data):
    trainer = lightning.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)


def test_each_rollout_is_collected_with_the_newest_weights(make_policy, make_env):
    data = RolloutDataModule(make_env, n_envs=4, rollout_length=12, n_chunks=1, total_frames=5 * 48 - 7, seed=0)
    policy = make_policy(data.env)
    torch.nn.init.zeros_(policy.heads.critic.module.weight)
    module = Recorder(policy)
    fit(module, data)
    assert module.lags == [0] * 5
    assert all(rollout.shape == (4, 12) for rollout in module.rollouts)
    assert all(rollout["is_init"][:, 0].all() for rollout in module.rollouts), "sequences begin with a trial"
    first, second = module.rollouts[:2]
    assert not torch.equal(first["observation", "observation"], second["observation", "observation"])


def test_chunks_of_a_rollout_follow_one_another_without_a_reset(make_policy, make_env):
    def collect(n_chunks):
        data = RolloutDataModule(make_env, n_envs=4, rollout_length=12, n_chunks=n_chunks, total_frames=3 * 48, seed=0)
        module = Recorder(make_policy(data.env))
        fit(module, data)
        assert [rollout.shape[1] for rollout in module.rollouts] == [12 // n_chunks] * (3 * n_chunks)
        for chunk, following, first in zip(module.rollouts[1:], module.following, range(1, 3 * n_chunks), strict=False):
            if first % n_chunks:
                assert (chunk[:, 0].select(*following.keys(True, True)) == following).all(), "what follows a chunk"
        return torch.cat(module.rollouts, 1).exclude("state_value"), module.following[-1]

    (whole, after_whole), (chunks, after_chunks) = collect(1), collect(3)
    assert (whole == chunks).all()
    assert (after_whole == after_chunks).all()
    assert chunks["is_init"].squeeze(-1).sum(1).tolist() == [3] * 4


@pytest.mark.parametrize("n_chunks", [0, 5])
def test_a_rollout_is_cut_into_equal_chunks(make_env, n_chunks):
    with pytest.raises(UserError, match=f"n_chunks={n_chunks}: must be a divisor of collector.rollout_length=12"):
        RolloutDataModule(make_env, n_envs=4, rollout_length=12, n_chunks=n_chunks, total_frames=100, seed=0)


@pytest.mark.parametrize("setting", ["n_envs", "rollout_length", "total_frames"])
def test_counts_must_be_positive(make_env, setting):
    settings = {"n_envs": 4, "rollout_length": 12, "n_chunks": 1, "total_frames": 100, setting: 0}
    with pytest.raises(UserError, match=f"{setting}=0: must be at least 1"):
        RolloutDataModule(make_env, seed=0, **settings)
