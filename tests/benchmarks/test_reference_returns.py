"""What random actions and perfect knowledge earn, against values that can be worked out by hand."""

import itertools

import numpy as np
import pytest

from memo_lightning.benchmarks.reference_returns import returns


def test_who_is_told_the_cue_earns_one_and_random_actions_cost_three_steps_in_four():
    found = returns("t_maze_100", n_trials=400)
    assert found["told"] == 1.0
    # Three of four actions stray, which costs 1 in all for all 100 of them; one of four turns as the cue says.
    assert found["random"] == pytest.approx(0.25 - 0.75, abs=0.1)


def test_who_is_told_the_goal_of_a_darkroom_loses_only_the_way_there():
    """Ten episodes of 20 steps; the mean distance from the middle of the room to another cell is 4.5."""
    told = returns("darkroom", n_trials=2000)["told"]
    assert told == pytest.approx(10 * (20 - 4.5 + 1), rel=0.03)


def test_who_is_told_key_and_door_walks_to_one_and_then_the_other_again_and_again():
    cells = list(itertools.product(range(5), repeat=2))
    rewards = []
    for key, door in itertools.permutations(cells, 2):
        to_key = max(1, distance(key, (2, 2)))  # who stands on it must stay for a step
        whole, left = divmod(200, to_key + distance(key, door))
        rewards.append(2 * whole + (left >= to_key))
    # The held-out tasks are a fifth of all.
    assert returns("dark_key_to_door", n_trials=2000)["told"] == pytest.approx(np.mean(rewards), rel=0.05)


def distance(one, other):
    return abs(one[0] - other[0]) + abs(one[1] - other[1])
