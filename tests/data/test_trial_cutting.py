"""Rollouts are cut into padded trials, from their first step to the inputs after their last."""

import pytest
import torch
from tensordict import TensorDict

from memo_lightning.data.trial_cutting import cut_into_trials

KEYS = [("observation", "place"), "is_init", "episode_end"]


def make_rollout(done, *, with_limits):
    """Return a rollout ``[B, T]`` that observes 100 b + t + 1 at step t of sequence b, and the inputs after it."""
    done = torch.tensor(done, dtype=torch.bool).unsqueeze(-1)
    n_envs, n_steps = done.shape[:2]
    place = (100.0 * torch.arange(n_envs).unsqueeze(1) + torch.arange(n_steps) + 1).unsqueeze(-1)
    starts = torch.cat([torch.ones_like(done[:, :1]), done[:, :-1]], 1)
    rollout = TensorDict(
        {
            "observation": {"place": place},
            "is_init": starts,
            "episode_end": torch.zeros_like(done),
            "action": place.squeeze(-1).long(),
            "next": {"reward": -place, "done": done, "episode_end": done.clone()},
        },
        [n_envs, n_steps],
    )
    after = TensorDict(
        {
            "observation": {"place": place[:, -1] + 1000},
            "is_init": torch.zeros_like(done[:, 0]),
            "episode_end": torch.zeros_like(done[:, 0]),
        },
        [n_envs],
    )
    if with_limits:
        rollout["next", "episode_truncated"] = done.clone()
        finals = rollout.select(*KEYS).clone()
        finals["observation", "place"] += 2000
        rollout["next", "final_inputs"] = finals
    return rollout, after


def naive(rollout, after, n_steps, first, is_complete, with_limits):
    """Return each trial as a list of observations, including the one after its last step."""
    trials = []
    for b in range(len(rollout)):
        current = []
        for t in range(rollout.shape[1]):
            current.append(rollout["observation", "place"][b, t].item())
            ended, last = bool(rollout["next", "done"][b, t]), t == rollout.shape[1] - 1
            if ended or (last and is_complete):
                if with_limits and ended:
                    final = rollout["next", "final_inputs", "observation", "place"][b, t].item()
                else:
                    final = after["observation", "place"][b].item()
                if t >= first:
                    trials.append([*current, final])
                current = []
    return trials


@pytest.mark.parametrize("with_limits", [False, True])
@pytest.mark.parametrize(("first", "is_complete"), [(0, True), (0, False), (3, True), (3, False)])
def test_trials_are_those_of_a_loop_over_steps(with_limits, first, is_complete):
    done = [[0, 0, 1, 0, 0, 1], [0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]]
    rollout, after = make_rollout(done, with_limits=with_limits)
    trials = cut_into_trials(rollout, after, KEYS, 7, first=first, is_complete=is_complete)
    expected = naive(rollout, after, 7, first, is_complete, with_limits)
    assert trials.shape == (len(expected), 8)
    for trial, places in zip(trials, expected, strict=True):
        n = len(places) - 1
        found = trial["observation", "place"].squeeze(-1).tolist()
        assert found == places + [0.0] * (8 - len(places))
        assert trial["valid"].tolist() == [True] * n + [False] * (8 - n)
        assert trial["action"].tolist() == [int(place) for place in places[:-1]] + [0] * (8 - n)
        assert trial["next", "reward"].squeeze(-1).tolist() == [-place for place in places[:-1]] + [0.0] * (8 - n)
        assert trial["is_init"].squeeze(-1).tolist() == [True] + [False] * 7
        assert not trial["next", "done"][n:].any()
        assert bool(trial["next", "episode_truncated"].any()) == (with_limits and bool(trial["next", "done"].any()))


def test_chunks_of_a_rollout_give_the_same_trials_as_the_whole():
    done = [[0, 0, 1, 0, 0, 1], [0, 1, 0, 1, 0, 0]]
    rollout, after = make_rollout(done, with_limits=False)
    following = rollout[:, 3].select(*KEYS)  # the inputs after the first chunk
    parts = [
        cut_into_trials(rollout[:, :3], following, KEYS, 6, is_complete=False),
        cut_into_trials(rollout, after, KEYS, 6, first=3),
    ]
    whole = cut_into_trials(rollout, after, KEYS, 6)
    order = torch.cat(parts)["observation", "place"][:, 0, 0].argsort()
    found = torch.cat(parts)[order].exclude(*KEYS)
    assert (found == whole[whole["observation", "place"][:, 0, 0].argsort()].exclude(*KEYS)).all()


def test_a_trial_that_is_too_long_is_refused():
    rollout, after = make_rollout([[0, 0, 0, 1]], with_limits=False)
    with pytest.raises(ValueError, match="a trial has 4 steps: must be at most 3"):
        cut_into_trials(rollout, after, KEYS, 3)
