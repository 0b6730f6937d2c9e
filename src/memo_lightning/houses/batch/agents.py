"""The state of the agents of all environments: poses, goals and episode measures.

Notation used for shapes:
    - N: environments, the rows of the batch
    - L: maximum steps of an episode
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Agents(NamedTuple):
    """The state of one agent per environment.

    Args:
        place: int64 ``[N]``, place of its placement in the scene pool; -1 for none.
        position: float64 ``[N, 3]``, position of its feet, metres.
        turn: int64 ``[N]``, heading, counted in turns to the left.
        tilt: int64 ``[N]``, index of the camera's pitch, the lowest first.
        collided: bool ``[N]``, whether the last step collided.
        origin: float64 ``[N, 3]``, position at the start of the trial.
        origin_turn: int64 ``[N]``, heading at the start of the trial.
        goal: int64 ``[N]``, index of the object type to find, from 0.
        elapsed: int64 ``[N]``, steps of the episode so far.
        distance: float64 ``[N]``, geodesic distance to the nearest goal when last measured, metres.
        measured_at: float64 ``[N, 3]``, position at that measurement.
        start_distance: float64 ``[N]``, geodesic distance at the start of the episode.
        walked: float64 ``[N]``, length of the path walked in the episode, metres.
        path: float64 ``[N, L + 1, 2]``, x and z from the start of the episode to now.
        reward: float64 ``[N]``, reward of the last step.
        success, spl, soft_spl: float64 ``[N]``, measures of the episode.
        over: bool ``[N]``, whether the episode has ended.
    """

    place: np.ndarray
    position: np.ndarray
    turn: np.ndarray
    tilt: np.ndarray
    collided: np.ndarray
    origin: np.ndarray
    origin_turn: np.ndarray
    goal: np.ndarray
    elapsed: np.ndarray
    distance: np.ndarray
    measured_at: np.ndarray
    start_distance: np.ndarray
    walked: np.ndarray
    path: np.ndarray
    reward: np.ndarray
    success: np.ndarray
    spl: np.ndarray
    soft_spl: np.ndarray
    over: np.ndarray


def make_agents(n: int, episode_steps: int) -> Agents:
    """Return agents without placements."""

    def numbers(*shape: int) -> np.ndarray:
        return np.zeros((n, *shape))

    def integers() -> np.ndarray:
        return np.zeros(n, np.int64)

    return Agents(
        place=np.full(n, -1), position=numbers(3), turn=integers(), tilt=integers(), collided=np.zeros(n, np.bool_),
        origin=numbers(3), origin_turn=integers(), goal=integers(), elapsed=integers(), distance=numbers(),
        measured_at=numbers(3), start_distance=numbers(), walked=numbers(), path=numbers(episode_steps + 1, 2),
        reward=numbers(), success=numbers(), spl=numbers(), soft_spl=numbers(), over=np.ones(n, np.bool_),
    )  # fmt: skip
