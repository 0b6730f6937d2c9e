"""Agents of all rows: where they stand, what they look for, and what has come of their episodes.

Notation used for shapes:
    - N: rows
    - L: steps of an episode
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Agents(NamedTuple):
    """One agent per row.

    Args:
        place: int64 ``[N]``, where its placement is packed.
        position: float64 ``[N, 3]``, of its feet, metres.
        turn: int64 ``[N]``, its heading in turns to the left.
        tilt: int64 ``[N]``, number of the camera's pitch, the lowest first.
        collided: bool ``[N]``, whether something was in the way of the last step.
        origin: float64 ``[N, 3]``, where its trial began.
        origin_turn: int64 ``[N]``.
        goal: int64 ``[N]``, number of the type to find, from 0.
        elapsed: int64 ``[N]``, steps of the episode so far.
        distance: float64 ``[N]``, on foot to the nearest goal, metres, as last measured.
        measured_at: float64 ``[N, 3]``, where that was.
        start_distance: float64 ``[N]``, at the start of the episode.
        walked: float64 ``[N]``, metres.
        path: float64 ``[N, L + 1, 2]``, x and z from the start of the episode to now.
        reward: float64 ``[N]``, of the last step.
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
    """Return agents that have no placement yet."""

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
