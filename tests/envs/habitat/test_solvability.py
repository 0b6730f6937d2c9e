import numpy as np
import pytest

from memo_lightning.envs.habitat.agents import RandomAgent, ShortestPathAgent
from memo_lightning.envs.habitat.solvability import measure, run_episodes
from memo_lightning.envs.habitat.trial import HabitatTrials


def test_in_the_held_out_houses_knowing_the_way_solves_all_and_chance_nothing():
    result = measure(n_placements=1, n_episodes=6)
    assert result["episodes"] == 72
    assert result["shortest_path_success"] == 1.0
    assert result["shortest_path_spl"] >= 0.95
    assert result["random_success"] < 0.05


@pytest.mark.parametrize("can_tilt", [True, False])
def test_small_houses_are_solvable_with_and_without_tilting(can_tilt):
    small = {"n_houses": 6, "n_placements": 1, "min_rooms": 2, "max_rooms": 3, "n_types": 6, "n_objects": 8}
    env = HabitatTrials(trial_steps=10**6, sensors=("columns",), can_tilt=can_tilt, dataset=small)
    ended = run_episodes(env, ShortestPathAgent(env.habitat_env), range(6), 5)
    assert np.mean([info["success"] for info in ended]) == 1.0
    assert np.mean([info["spl"] for info in ended]) >= 0.95


def test_walking_at_random_for_long_hardly_ever_succeeds_either():
    class Wanderer(RandomAgent):
        """Stops only once in a hundred steps."""

        def act(self, observations):
            return 0 if self._rng.integers(100) == 0 else 1 + int(self._rng.integers(5))

    env = HabitatTrials(trial_steps=10**6, sensors=(), split="held_out", dataset={"n_placements": 1})
    ended = run_episodes(env, Wanderer(6, seed=0), range(12), 6)
    assert np.mean([info["success"] for info in ended]) < 0.05
