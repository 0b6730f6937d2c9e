import numpy as np
import pytest

from memo_lightning.envs.habitat.agents import RandomAgent, ShortestPathAgent
from memo_lightning.envs.habitat.trial import TrialEnv


@pytest.fixture(scope="module")
def env():
    return TrialEnv(trial_steps=100_000, sensors=(), split="held_out", dataset={"n_placements": 1})


def run(env, agent, n_episodes):
    """Return success and SPL of the first episodes in every held-out house, [12 * n_episodes] each."""
    success, spl = [], []
    for placement in range(12):
        env.reset(options={"placement": placement})
        agent.reset()
        n_ended = 0
        while n_ended < n_episodes:
            *_, info = env.step(agent.act(None))
            if info["episode_end"]:
                n_ended += 1
                success.append(info["success"])
                spl.append(info["spl"])
                agent.reset()
    return np.array(success), np.array(spl)


def test_the_shortest_path_agent_solves_every_episode_in_the_held_out_houses(env):
    success, spl = run(env, ShortestPathAgent(env.habitat_env), 10)
    assert success.mean() == 1.0
    assert spl.mean() >= 0.95


def test_a_random_agent_hardly_ever_succeeds(env):
    success, _ = run(env, RandomAgent(6, seed=0), 20)
    assert success.mean() < 0.05


def test_a_random_agent_that_walks_for_long_hardly_ever_succeeds_either(env):
    class Wanderer(RandomAgent):
        """Stops once in a hundred steps only."""

        def act(self, observations):
            return 0 if self._rng.integers(100) == 0 else 1 + int(self._rng.integers(5))

    success, _ = run(env, Wanderer(6, seed=0), 6)
    assert success.mean() < 0.05
