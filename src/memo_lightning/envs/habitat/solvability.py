"""Results of agents without training: ``python -m memo_lightning.envs.habitat.solvability``.

The agent that knows the way shows that every episode can be solved with an SPL of 1; the random agent shows that
nothing is solved by accident.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import habitat
import numpy as np

from memo_lightning.envs.habitat.agents import RandomAgent, ShortestPathAgent
from memo_lightning.envs.habitat.trial import HabitatTrials


def run_episodes(
    env: HabitatTrials, agent: habitat.Agent, placements: Iterable[int], n_episodes: int
) -> list[dict[str, Any]]:
    """Return the last ``info`` of each of the first ``n_episodes`` episodes of every placement."""
    ended = []
    for placement in placements:
        observation, _ = env.reset(options={"placement": placement})
        agent.reset()
        for _ in range(n_episodes):
            info: dict[str, Any] = {"episode_end": False}
            while not info["episode_end"]:
                observation, *_, info = env.step(agent.act(observation))
            ended.append(info)
            agent.reset()
    return ended


def measure(n_placements: int, n_episodes: int) -> dict[str, float]:
    """Return both agents' results in the 12 held-out houses, averaged over placements and their episodes."""
    env = HabitatTrials(trial_steps=10**9, sensors=(), split="held_out", dataset={"n_placements": n_placements})
    placements = range(12 * n_placements)
    solved = run_episodes(env, ShortestPathAgent(env.habitat_env), placements, n_episodes)
    wandered = run_episodes(env, RandomAgent(len(env.habitat_env.task.actions), seed=0), placements, n_episodes)
    return {
        "episodes": len(solved),
        "shortest_path_success": float(np.mean([info["success"] for info in solved])),
        "shortest_path_spl": float(np.mean([info["spl"] for info in solved])),
        "random_success": float(np.mean([info["success"] for info in wandered])),
    }


if __name__ == "__main__":
    print(json.dumps(measure(n_placements=10, n_episodes=10)))
