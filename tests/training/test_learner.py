"""The learner in a real run: partial updates, refreshed memories, schedules and early stops."""

import math

import lightning
import pytest
import torch

from memo_lightning.algorithms import PPO
from memo_lightning.data import RolloutDataModule
from memo_lightning.models import MemoTransformer
from memo_lightning.training import PolicyLearner
from tiny import PPO_SETTINGS


class Witness(lightning.Callback):
    """Before each update, compares acting with what training computes from the sequences; also records updates."""

    def __init__(self):
        self.errors, self.metrics, self.learned_from = [], [], []

    @torch.no_grad()
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        policy, so_far, chunk = pl_module.policy, pl_module.algorithm._rollout, batch["steps"]
        sequences = chunk if so_far is None else torch.cat([so_far, chunk], dim=1)
        hidden = policy.hidden(sequences, policy.sequence_model.segment_length)
        value = policy.heads.critic(sequences.clone().set("hidden", hidden))["state_value"]
        self.errors.append((value - sequences["state_value"])[:, -chunk.shape[1] :].abs().max().item())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.learned_from.append(pl_module.in_rollout)


def train(make_env, make_policy, *, n_chunks=1, n_rollouts=2, keep_inputs=True, data_seed=0, **changes):
    n_envs, length = 6, 24  # two trials of 12 steps
    data = RolloutDataModule(
        make_env,
        n_envs=n_envs,
        rollout_length=length,
        n_chunks=n_chunks,
        total_frames=n_rollouts * n_envs * length,
        seed=data_seed,
    )
    policy = make_policy(data.env)
    algorithm = PPO(**{**PPO_SETTINGS, **changes})
    if keep_inputs:
        policy.keep_inputs(shuffle_episodes=algorithm.shuffle_episodes)
    learner = PolicyLearner(policy, algorithm, {"total_frames": data.total_frames, "compile": False, "seed": 0})
    witness = Witness()
    trainer = lightning.Trainer(
        max_epochs=1,
        logger=False,
        log_every_n_steps=n_chunks,
        callbacks=[witness],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(learner, datamodule=data)
    return learner, witness


@pytest.mark.parametrize("shuffle_episodes", [False, True])
def test_acting_goes_on_with_a_memory_of_the_new_weights(make_env, make_policy, shuffle_episodes):
    """After each update, acting continues as if the new weights had read the trial from its start."""
    learner, witness = train(make_env, make_policy, n_chunks=4, shuffle_episodes=shuffle_episodes)
    assert len(witness.errors) == 8
    assert max(witness.errors) < 1e-5
    assert learner.rollouts_done == 2
    assert witness.learned_from == [True, True, True, False] * 2
    assert int(learner.policy.weights_version) == 6, "partial updates"


def test_without_the_inputs_the_memory_stays_that_of_the_old_weights(make_env, make_policy):
    _, witness = train(make_env, make_policy, n_chunks=4, keep_inputs=False)
    begin_trials, go_on = witness.errors[::2], witness.errors[1::2]
    assert max(begin_trials) < 1e-5
    assert min(go_on) > 1e-4


def test_updates_end_at_the_target_kl(make_env, make_policy):
    _, unbounded = train(make_env, make_policy, n_epochs=4)
    assert [metrics["update/epochs"] for metrics in unbounded.metrics] == [4, 4]
    _, bounded = train(make_env, make_policy, n_epochs=4, target_kl=1e-7)
    assert [metrics["update/epochs"] for metrics in bounded.metrics] == [1, 1]
    assert bounded.metrics[0]["update/kl_first_epoch"] == unbounded.metrics[0]["update/kl_first_epoch"] > 1e-7


def test_learning_rate_follows_the_frames(make_env, make_policy):
    _, witness = train(make_env, make_policy, n_rollouts=4, learning_rate=0.01, warmup_frames=144, schedule="cosine")
    rates = [metrics["update/learning_rate"] for metrics in witness.metrics]
    # In the middle of each rollout of 144 frames: half of the warm-up, then 1/6, 3/6 and 5/6 of the cosine.
    cosine = [0.005 * (1 + math.cos(math.pi * part / 6)) for part in (1, 3, 5)]
    assert rates == pytest.approx([0.005, *cosine], abs=1e-6)


@pytest.mark.parametrize("n_chunks", [1, 8])
def test_every_weight_has_a_gradient_in_every_update(make_env, make_policy, n_chunks):
    """Ranks wait for each other's gradients, so this includes passes without a whole segment or with skipped layers."""
    learner, _ = train(make_env, lambda env: make_policy(env, n_layers=3, layer_drop=0.6), n_chunks=n_chunks)
    optimizer = learner.optimizers()
    steps = {int(state["step"]) for state in optimizer.state.values()}
    assert len(optimizer.state) == len(list(learner.parameters()))
    assert len(steps) == 1


def test_all_ranks_draw_the_same_segment_lengths(make_env, make_policy, monkeypatch):
    """Ranks agree on segment lengths although their rollouts use different random streams."""
    drawn = []
    original = MemoTransformer.read_trials

    def record(self, x, trials, segment_length, dropped):
        drawn.append((segment_length, dropped))
        return original(self, x, trials, segment_length, dropped)

    monkeypatch.setattr(MemoTransformer, "read_trials", record)
    for data_seed in (0, 1):
        train(make_env, make_policy, data_seed=data_seed)
    one, other = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    assert one == other
    assert len(set(one)) > 1
