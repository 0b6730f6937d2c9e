"""Chunks: what they hold, and what the policy thinks of observations at which episodes were cut off."""

import pytest
import torch
from tensordict import TensorDict

from memo_lightning.data import RolloutDataModule
from memo_lightning.envs.build import build_env


def collect(policy_for, *, n_steps, **rules):
    """Return policy, chunk, and all that the environment returned at each step."""
    target = "memo_lightning.envs.gymnasium.GymnasiumEnv"
    config = {"_target_": target, "id": "Pendulum-v1", "episode_length": 5, "trial_length": 12, **rules}
    data = RolloutDataModule(
        lambda n, seed: build_env(config, n, seed),
        n_envs=3, rollout_length=n_steps, n_chunks=1, total_frames=3 * n_steps, seed=0,
    )  # fmt: skip
    policy, returned = policy_for(data.env).eval(), []
    original = data.env.step_and_maybe_reset

    def record(tensordict):
        output, following = original(tensordict)
        returned.append(output["next"].clone())
        return output, following

    data.env.step_and_maybe_reset = record
    chunk = next(iter(data._build_collector(policy, 0)))
    return policy, chunk, torch.stack(returned, 1)


@pytest.mark.parametrize("episodes_per_trial", [None, 2, 1])
@torch.no_grad()
def test_what_ended_a_cut_off_episode_is_valued_as_if_the_episode_went_on(make_policy, episodes_per_trial):
    policy, chunk, returned = collect(make_policy, n_steps=24, episodes_per_trial=episodes_per_trial)
    steps = chunk["steps"]
    cut_off = steps["next", "episode_truncated"].squeeze(-1)
    ends = {None: [4, 9, 11, 16, 21, 23], 2: [4, 9, 14, 19], 1: [4, 9, 14, 19]}[episodes_per_trial]
    assert cut_off[0].nonzero().flatten().tolist() == ends
    assert (steps["next", "final_value"].squeeze(-1)[~cut_off] == 0).all()
    inputs = steps.select(*policy.in_keys)
    for t in ends:
        done = bool(steps["next", "done"][0, t])
        last = returned[:, t]["observation" if done else "final_observation"]
        previous = returned[:, t]["previous_step"].clone()
        previous[:, -1] = 0.0  # the episode goes on
        flag = torch.zeros(3, 1, dtype=torch.bool)
        final = TensorDict(
            {"observation": last, "previous_step": previous, "is_init": flag, "episode_end": flag.clone()}, [3]
        )
        sequences = torch.cat([inputs[:, : t + 1], final.unsqueeze(1)], 1)
        hidden = policy.hidden(sequences, **policy.sequence_model.acting_pass())
        expected = policy.heads.critic(TensorDict({"hidden": hidden}, hidden.shape[:2]))["state_value"][:, -1]
        torch.testing.assert_close(steps["next", "final_value"][:, t], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_valuing_leaves_the_memory_of_acting_as_it_was(make_policy):
    policy, chunk, _ = collect(make_policy, n_steps=24, episodes_per_trial=None)
    steps = chunk["steps"]
    hidden = policy.hidden(steps, **policy.sequence_model.acting_pass())
    value = policy.heads.critic(TensorDict({"hidden": hidden}, hidden.shape[:2]))["state_value"]
    torch.testing.assert_close(value, steps["state_value"], atol=1e-5, rtol=1e-5)


def test_a_chunk_holds_every_observation_once_and_what_follows_it(make_policy):
    policy, chunk, returned = collect(make_policy, n_steps=12, episodes_per_trial=None)
    assert set(chunk["steps"].keys()) == {
        *("observation", "previous_step", "is_init", "episode_end", "action", "action_log_prob", "state_value", "next")
    }
    assert set(chunk["steps"]["next"].keys()) == {
        *("reward", "done", "terminated", "truncated", "episode_end", "episode_truncated"),
        *("episode_return", "episode_length", "success", "final_value"),
    }
    within = chunk["steps"]["observation", "observation"][:, 1:]
    torch.testing.assert_close(within, returned["observation", "observation"][:, :-1])
    assert chunk["after"]["is_init"].all(), "the next trial has begun"
    _, chunk, returned = collect(make_policy, n_steps=7, episodes_per_trial=None)
    for name in policy.in_keys:
        assert torch.equal(chunk["after"][name], returned[:, -1][name]), name
