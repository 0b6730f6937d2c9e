"""Advantages: equal to the definition, and cut where they must be."""

import pytest
import torch
from tensordict import TensorDict

from memo_lightning.algorithms.advantages import add_advantages


def random_rows(batch=5, steps=30):
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
    rows, last_value = random_rows(), torch.randn(5, 1)
    add_advantages(rows, last_value, gamma, gae_lambda, cross_episodes=cross_episodes)
    for row, after in zip(rows, last_value, strict=True):
        values = [*row["state_value"].flatten().tolist(), after.item()]
        rewards = row["next", "reward"].flatten().tolist()
        episode_ends = torch.zeros_like(row["next", "done"]) if cross_episodes else row["next", "episode_end"]
        ends = (episode_ends | row["next", "done"]).flatten().tolist()
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
            assert row["advantage"][t].item() == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(rows["value_target"], rows["advantage"] + rows["state_value"])


def test_scaled_rewards_are_other_rewards():
    rows, last_value = random_rows(), torch.randn(5, 1)
    scaled = rows.clone()
    scaled["next", "reward"] *= 0.1
    add_advantages(rows, last_value, 0.9, 0.8, reward_scale=0.1)
    add_advantages(scaled, last_value, 0.9, 0.8)
    torch.testing.assert_close(rows["advantage"], scaled["advantage"])
    torch.testing.assert_close(rows["value_target"], scaled["value_target"])
