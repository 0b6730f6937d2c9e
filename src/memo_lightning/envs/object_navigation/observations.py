"""Observations as a policy reads them: in a form that is small to store and easy to encode."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from memo_lightning.errors import require
from memo_lightning.houses import OBJECT_TYPES
from memo_lightning.houses.columns import MAX_RANGE

_WAVELENGTHS = np.array([2.0, 4.0, 8.0, 16.0], np.float32)  # metres


class CompactForm:
    """Compact form of the observations of one environment, or of many with leading dimensions ``...``.

    - ``rgb`` stays an image; ``depth`` becomes one, uint8 with 255 for the farthest.
    - ``position`` is followed by sines and cosines of x and z at several wavelengths, float32 ``[..., 20]``, so that a
      linear layer can recognise a place that was seen before.
    - ``column_range`` is flat, ``column_type`` is one choice per column, and ``column_goal`` says per column how near
      an object of the type to find is, 1 for here and 0 for none in sight, as a detector for that type would report.
    - ``previous_action`` is the last action, counted from 1, and 0 at the start of an episode; ``episode_time`` is the
      elapsed fraction of the episode.

    The reward is not included: it tells whether the last step led nearer to the goal, which no robot knows.

    Args:
        episode_steps: steps of an episode.
        object_range: metres within which the columns report objects; farther ones are mere obstacles.

    Raises:
        UserError: if ``object_range`` is outside the range that the columns measure.
    """

    def __init__(self, episode_steps: int, object_range: float = MAX_RANGE) -> None:
        require(0 < object_range <= MAX_RANGE, "env.object_range", object_range, f"above 0 and at most {MAX_RANGE}")
        self._object_range, self._episode_steps = object_range / MAX_RANGE, episode_steps

    def space(self, shapes: Mapping[str, tuple[int, ...]], n_actions: int) -> spaces.Dict:
        """Return the space of one environment's observations.

        Args:
            shapes: shapes of the original observations, by name.
            n_actions: number of actions.
        """
        numbers, unit = (-np.inf, np.inf), (0.0, 1.0)
        rewritten: dict[str, spaces.Space] = {}
        for name, shape in shapes.items():
            if name in ("rgb", "depth"):
                rewritten[name] = spaces.Box(0, 255, shape, np.uint8)
            elif name == "goal":
                rewritten[name] = spaces.Box(*unit, shape, np.float32)
            elif name == "position":
                rewritten[name] = spaces.Box(*numbers, (4 + 4 * len(_WAVELENGTHS),), np.float32)
        if "column_type" in shapes:
            (n_columns,) = shapes["column_type"]
            rewritten["column_range"] = spaces.Box(*unit, (2 * n_columns,), np.float32)
            rewritten["column_type"] = spaces.MultiDiscrete([len(OBJECT_TYPES) + 1] * n_columns)
            rewritten["column_goal"] = spaces.Box(*unit, (n_columns,), np.float32)
        rewritten["previous_action"] = spaces.Discrete(n_actions + 1)
        rewritten["episode_time"] = spaces.Box(*unit, (1,), np.float32)
        return spaces.Dict(rewritten)

    def rewrite(
        self, observation: Mapping[str, NDArray], previous_action: ArrayLike, elapsed: ArrayLike
    ) -> dict[str, NDArray]:
        """Return observations in their compact form.

        Args:
            observation: observations by name, each ``[..., *shape]``; not changed.
            previous_action: the last action, counted from 1, or 0, ``[...]``.
            elapsed: steps of the episode so far, ``[...]``.
        """
        rewritten = dict(observation)
        position = observation["position"]
        phases = 2 * np.pi * position[..., :2, None] / _WAVELENGTHS
        phases = phases.reshape(*position.shape[:-1], -1)
        rewritten["position"] = np.concatenate([position, np.sin(phases), np.cos(phases)], axis=-1)
        if "depth" in observation:
            rewritten["depth"] = np.round(255 * observation["depth"]).astype(np.uint8)
        if "column_type" in observation:
            ranges, types = observation["column_range"].copy(), observation["column_type"].copy()
            too_far = ranges[..., 1] > self._object_range
            ranges[..., 1][too_far], types[too_far] = 1.0, 0
            rewritten["column_range"] = ranges.reshape(*ranges.shape[:-2], -1)
            rewritten["column_type"] = types
            goal = observation["goal"].argmax(axis=-1)[..., None] + 1
            rewritten["column_goal"] = np.where(types == goal, 1.0 - ranges[..., 1], 0.0).astype(np.float32)
        rewritten["previous_action"] = np.asarray(previous_action, np.int64)
        time = np.asarray(elapsed, np.float64) / self._episode_steps
        rewritten["episode_time"] = time[..., None].astype(np.float32)
        return rewritten
