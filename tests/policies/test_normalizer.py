"""Running statistics: equal to numpy's over all data, the same on all ranks, and fixed while acting."""

import json
from threading import Barrier, Thread

import lightning
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict

from memo_lightning.algorithms import PPO
from memo_lightning.config import build, compose_config
from memo_lightning.data import RolloutDataModule
from memo_lightning.envs.interface import interface_of
from memo_lightning.policies import Interface, PolicySpec
from memo_lightning.policies.action import Action
from memo_lightning.policies.normalizer import Normalizer, RunningMoments
from memo_lightning.policies.observation_keys import observation_keys
from memo_lightning.training import PolicyLearner
from tiny import MEMO

SPACE = spaces.Dict(
    vector=spaces.Box(-np.inf, np.inf, (3,), np.float32),
    angle=spaces.Box(-2, 2, (2,), np.float32),
    choice=spaces.Discrete(5),
    choices=spaces.MultiDiscrete([2, 3]),
    image=spaces.Box(0, 255, (9, 9, 3), np.uint8),
)


def alone(value):
    """Sum over all ranks, of which there is only one."""
    return value


def spec_for(interface, *, observations=True, rewards=True):
    encoder = {"_target_": "memo_lightning.policies.ObservationEncoder"}
    heads = "memo_lightning.policies.heads.ActorCriticHeads"
    return PolicySpec(interface, encoder, MEMO, heads, observations, rewards)


def everything(observes_reward=True):
    return Interface(SPACE, observation_keys(SPACE), Action(spaces.Discrete(4)), observes_reward)


def random_inputs(interface, *batch):
    """Return policy inputs [*batch] whose vectors are far from standardised."""
    inputs = interface.observed(batch).rand()
    inputs["observation", "vector"] = 50.0 + 7.0 * torch.randn(*batch, 3)
    flags = {name: torch.zeros(*batch, 1, dtype=torch.bool) for name in ("is_init", "episode_end")}
    return inputs.update(flags)


def deviation_of_returns(rewards, ends, gamma):
    """Return the standard deviation of all discounted returns so far in rollouts [B, T]."""
    returns = []
    for of_rollout, ended in zip(rewards, ends, strict=True):
        for sequence, last in zip(of_rollout.squeeze(-1).tolist(), ended.squeeze(-1).tolist(), strict=True):
            first = 0
            for t in range(len(sequence)):
                returns.append(sum(gamma ** (t - s) * sequence[s] for s in range(first, t + 1)))
                first = t + 1 if last[t] else first
    return np.std(returns)


def test_moments_equal_numpys_over_all_data():
    rng = np.random.default_rng(0)
    parts = [
        scale * rng.standard_normal((n, 3)) + [1e4, 0, -3] for n, scale in ((7, 1.0), (1, 9.0), (300, 0.1), (40, 20.0))
    ]
    moments, seen = RunningMoments(3), np.zeros((0, 3))
    assert moments.deviation.tolist() == [1, 1, 1], "nothing was seen yet"
    for part in parts:
        moments.update(torch.from_numpy(part), alone)
        seen = np.concatenate([seen, part])
        assert moments.count == len(seen)
        np.testing.assert_allclose(moments.mean, seen.mean(0), rtol=1e-12, atol=1e-12)
        if len(seen) > 7:
            np.testing.assert_allclose(moments.deviation, seen.std(0), rtol=1e-9)
    moments = RunningMoments(1)
    moments.update(torch.full((9, 1), 4.0), alone)
    assert moments.deviation == 1, "all values were the same"
    moments = RunningMoments(1)
    moments.update(torch.tensor([[-1e-6], [1e-6]]), alone)
    np.testing.assert_allclose(moments.deviation, 1e-6, err_msg="small, and not the same")


def test_ranks_have_the_moments_of_all_data_together():
    data = np.random.default_rng(0).standard_normal((2, 3, 20, 4)) * 3 + 5  # two ranks and three updates
    moments, barrier, sums = [RunningMoments(4), RunningMoments(4)], Barrier(2), [None, None]

    def run(rank):
        def over_ranks(value):
            sums[rank] = value.clone()
            barrier.wait(10)
            total = sums[0] + sums[1]
            barrier.wait(10)
            return total

        for values in data[rank]:
            moments[rank].update(torch.from_numpy(values), over_ranks)

    threads = [Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for of_rank in moments:
        np.testing.assert_allclose(of_rank.mean, data.reshape(-1, 4).mean(0))
        np.testing.assert_allclose(of_rank.deviation, data.reshape(-1, 4).std(0))
    assert moments[0].count == 120


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_rewards_are_scaled_by_the_deviation_of_discounted_returns(gamma):
    torch.manual_seed(0)
    normalizer = Normalizer({}, rewards=True, observes_reward=True)
    assert normalizer.reward_scale == 1
    rewards = [3.0 * torch.randn(4, 12, 1) + 1.0 for _ in range(3)]
    ends = [torch.rand(4, 12, 1) < 0.2 for _ in range(3)]
    for k in range(3):
        normalizer.update(TensorDict({}, [4, 12]), rewards[k], ends[k], gamma, alone)
        expected = deviation_of_returns(rewards[: k + 1], ends[: k + 1], gamma)
        assert float(normalizer.reward_scale) == pytest.approx(1 / expected, rel=1e-6)


def test_vectors_and_the_last_reward_are_normalised_and_nothing_else():
    torch.manual_seed(0)
    interface = everything()
    normalizer = spec_for(interface).build().normalizer
    seen = random_inputs(interface, 6, 50)
    reward = torch.randn(6, 50, 1)
    normalizer.update(seen, reward, torch.zeros(6, 50, 1, dtype=torch.bool), 0.9, alone)
    inputs = random_inputs(interface, 6, 50)
    inputs["observation", "vector"][0, 0, 0] = 1e6
    before = inputs.clone()
    outputs = normalizer(inputs)
    assert (inputs == before).all(), "what is stored stays as it was"
    for name in ("vector", "angle"):
        values = seen["observation", name].flatten(0, 1).double().numpy()
        expected = ((before["observation", name].numpy() - values.mean(0)) / values.std(0)).clip(-10, 10)
        np.testing.assert_allclose(outputs["observation", name], expected, rtol=1e-4, atol=1e-4)
    assert outputs["observation", "vector"][0, 0, 0] == 10, "what is far away is clipped"
    for name in ("choice", "choices", "image"):
        assert torch.equal(outputs["observation", name], before["observation", name])
        assert outputs["observation", name].dtype == before["observation", name].dtype
    action, last_reward, end = before["previous_step"].split([4, 1, 1], -1)
    scaled = last_reward * normalizer.reward_scale.float()
    torch.testing.assert_close(outputs["previous_step"], torch.cat([action, scaled, end], -1))
    assert normalizer.reward_scale != 1
    for name in ("is_init", "episode_end"):
        assert torch.equal(outputs[name], before[name])


def test_without_the_reward_among_the_inputs_these_stay_as_they_are():
    interface = everything(observes_reward=False)
    normalizer = spec_for(interface, observations=False).build().normalizer
    inputs = random_inputs(interface, 3, 8)
    normalizer.update(inputs, 9 * torch.randn(3, 8, 1), torch.zeros(3, 8, 1, dtype=torch.bool), 0.9, alone)
    assert (normalizer(inputs) == inputs).all()
    assert normalizer.observations is None
    assert spec_for(interface, observations=False, rewards=False).build().normalizer is None


@torch.no_grad()
def test_a_policy_reads_normalised_inputs_and_acting_changes_no_statistics(make_env):
    torch.manual_seed(0)
    env = make_env(4, 0)
    policy = spec_for(interface_of(env)).build()
    rollout = env.rollout(24, policy, break_when_any_done=False)
    ends = rollout["next", "episode_end"] | rollout["next", "done"]
    policy.normalizer.update(rollout, rollout["next", "reward"], ends, 0.9, alone)
    before = {name: value.clone() for name, value in policy.normalizer.state_dict().items()}
    seen = []
    policy.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    acted = env.rollout(24, policy, break_when_any_done=False)
    assert all(torch.equal(value, before[name]) for name, value in policy.normalizer.state_dict().items())
    values = rollout["observation", "observation"].flatten(0, 1).double()
    deviation = values.std(0, correction=0)
    deviation[deviation == 0] = 1
    expected = (acted["observation", "observation"] - values.mean(0)) / deviation
    torch.testing.assert_close(
        torch.stack([inputs["observation", "observation"] for inputs in seen], 1),
        expected.clamp(-10, 10).float(),
        atol=1e-4,
        rtol=1e-4,
    )


class Witness(lightning.Callback):
    """Records what was collected, and the statistics after each batch."""

    def __init__(self):
        self.steps, self.counts = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(batch["steps"].clone())
        self.counts.append(int(pl_module.policy.normalizer.observations.count))


def test_a_run_has_the_statistics_of_all_its_rollouts(make_env):
    """The statistics change when a rollout is complete, and not with its chunks."""
    data = RolloutDataModule(make_env, n_envs=4, rollout_length=24, n_chunks=2, total_frames=288, seed=0)
    torch.manual_seed(0)
    policy = spec_for(interface_of(data.env)).build()
    overrides = ["algorithm.n_minibatches=2", "algorithm.gamma=0.8", "algorithm.cross_episode_returns=false"]
    algorithm: PPO = build(compose_config("train", overrides).algorithm)
    algorithm.prepare_policy(policy, data)
    learner = PolicyLearner(policy, algorithm, {"total_frames": 288, "compile": False, "seed": 0})
    witness = Witness()
    trainer = lightning.Trainer(
        max_epochs=1,
        logger=False,
        log_every_n_steps=2,
        callbacks=[witness],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(learner, datamodule=data)
    assert witness.counts == [0, 96, 96, 192, 192, 288]
    rollouts = [torch.cat(witness.steps[k : k + 2], 1) for k in (0, 2, 4)]
    seen = torch.cat(rollouts)["observation", "observation"].flatten(0, 1).double().numpy()
    np.testing.assert_allclose(policy.normalizer.observations.mean, seen.mean(0), atol=1e-9)
    expected = np.where(seen.std(0) > 0, seen.std(0), 1)
    np.testing.assert_allclose(policy.normalizer.observations.deviation, expected, rtol=1e-6)
    rewards = [rollout["next", "reward"] for rollout in rollouts]
    ends = [rollout["next", "done"] | rollout["next", "episode_end"] for rollout in rollouts]
    scale = 1 / deviation_of_returns(rewards, ends, 0.8)
    assert float(policy.normalizer.reward_scale) == pytest.approx(scale, rel=1e-6)

    rollout = rollouts[-1].clone()
    assert rollout["next", "done"][:, -1].all()
    following = rollout[:, -1].select(*policy.in_keys)
    algorithm.attach(policy, data)
    ours, naive = rollout.clone(), rollout.clone()
    naive["next", "reward"] *= scale
    learned = algorithm.prepare(policy, ours, following, policy.sequence_model.acting_pass).learned
    policy.normalizer.returns = None
    expected = algorithm.prepare(policy, naive, following, policy.sequence_model.acting_pass).learned
    torch.testing.assert_close(learned["value_target"], expected["value_target"])


def test_a_spec_with_normalisation_survives_as_plain_values():
    torch.manual_seed(0)
    interface = everything()
    spec = spec_for(interface)
    again = PolicySpec.from_plain(json.loads(json.dumps(spec.as_plain())))
    assert again.normalize_observations
    assert again.normalize_rewards
    assert again.as_plain() == spec.as_plain()
    one, other = spec.build().eval(), again.build().eval()
    inputs = random_inputs(interface, 5, 9)
    one.normalizer.update(inputs, torch.randn(5, 9, 1), torch.zeros(5, 9, 1, dtype=torch.bool), 0.9, alone)
    other.load_state_dict(one.state_dict())
    assert other.normalizer.observations.count == 45
    with torch.no_grad():
        torch.testing.assert_close(one.hidden(inputs), other.hidden(inputs), rtol=0, atol=0)
