"""Advantages equal their definition, and are cut off where they must be."""

import pytest
import torch
from tensordict import TensorDict

from memo_lightning.algorithms.advantages import add_advantages


def random_steps(batch=5, steps=30):
    torch.manual_seed(0)
    return TensorDict(
        {
            "state_value": torch.randn(batch, steps, 1),
            "next": {
                "reward": torch.randn(batch, steps, 1),
                "episode_end": torch.rand(batch, steps, 1) < 0.2,
                "done": torch.rand(batch, steps, 1) < 0.05,
            },
        },
        [batch, steps],
    )


@pytest.mark.parametrize("cross_episodes", [False, True])
@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.9, 0.8), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_equal_the_sum_over_discounted_errors(gamma, gae_lambda, cross_episodes):
    steps, last_value = random_steps(), torch.randn(5, 1)
    add_advantages(steps, last_value, gamma, gae_lambda, cross_episodes=cross_episodes)
    for sequence, after in zip(steps, last_value, strict=True):
        values = [*sequence["state_value"].flatten().tolist(), after.item()]
        rewards = sequence["next", "reward"].flatten().tolist()
        episode_ends = torch.zeros_like(sequence["next", "done"]) if cross_episodes else sequence["next", "episode_end"]
        ends = (episode_ends | sequence["next", "done"]).flatten().tolist()
        errors = [
            r + (0 if e else gamma * values[t + 1]) - values[t]
            for t, (r, e) in enumerate(zip(rewards, ends, strict=True))
        ]
        for t in range(30):
            expected, weight = 0.0, 1.0
            for later in range(t, 30):
                expected += weight * errors[later]
                weight *= gamma * gae_lambda
                if ends[later]:
                    break
            assert sequence["advantage"][t].item() == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(steps["value_target"], steps["advantage"] + steps["state_value"])


def test_scaled_rewards_are_other_rewards():
    steps, last_value = random_steps(), torch.randn(5, 1)
    scaled = steps.clone()
    scaled["next", "reward"] *= 0.1
    add_advantages(steps, last_value, 0.9, 0.8, reward_scale=0.1)
    add_advantages(scaled, last_value, 0.9, 0.8)
    torch.testing.assert_close(steps["advantage"], scaled["advantage"])
    torch.testing.assert_close(steps["value_target"], scaled["value_target"])


@pytest.mark.parametrize("cross_episodes", [False, True])
def test_an_episode_that_a_limit_cuts_off_is_bootstrapped_with_the_value_of_what_ended_it(cross_episodes):
    steps, last_value, gamma, gae_lambda = random_steps(), torch.randn(5, 1), 0.9, 0.8
    after = steps["next"]
    after["episode_truncated"] = (after["episode_end"] | after["done"]) & (torch.rand(5, 30, 1) < 0.5)
    after["final_value"] = torch.randn(5, 30, 1)
    add_advantages(steps, last_value, gamma, gae_lambda, cross_episodes=cross_episodes)
    bootstrapped = 0
    for sequence, following in zip(steps, last_value, strict=True):
        expected = 0.0
        for t in reversed(range(30)):
            step = sequence["next"][t]
            ends = bool(step["done"] or (step["episode_end"] and not cross_episodes))
            next_value = float(sequence["state_value"][t + 1] if t < 29 else following)
            if ends:
                next_value = float(step["final_value"]) if step["episode_truncated"] else 0.0
                bootstrapped += bool(step["episode_truncated"])
            error = float(step["reward"]) + gamma * next_value - float(sequence["state_value"][t])
            expected = error + (0.0 if ends else gamma * gae_lambda * expected)
            assert sequence["advantage"][t].item() == pytest.approx(expected, abs=1e-4)
    assert bootstrapped > 3
    torch.testing.assert_close(steps["value_target"], steps["advantage"] + steps["state_value"])
