"""What a policy reads of a trial: habitat's observations in a form that is small to keep and easy to encode."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from memo_lightning.envs.habitat.trial import TrialEnv
from memo_lightning.errors import require
from memo_lightning.houses import OBJECT_TYPES
from memo_lightning.houses.columns import MAX_RANGE

_WAVELENGTHS = np.array([2.0, 4.0, 8.0, 16.0], np.float32)  # metres


class CompactObservations(gymnasium.Wrapper):
    """Rewrites the observations of a trial.

    - ``rgb`` stays an image; ``depth`` becomes one, uint8 with 255 for the farthest.
    - ``position`` is followed by sines and cosines of x and z at several wavelengths, float32 ``[20]``: a place
      that was seen before can then be recognised by a linear layer.
    - ``column_range`` is flat, ``column_type`` a choice per column, and ``column_goal`` says per column how near
      an object of the type to find is, 1 for here and 0 for none in sight: what a detector that is asked for that
      type would report.
    - ``previous_action`` is the last action, counted from 1, and 0 at the start of an episode; ``episode_time``
      the fraction of the episode that is over.

    The reward is not among them: it tells whether the last step led nearer to the goal, which no robot knows.

    Args:
        env: the trial.
        object_range: metres within which the columns tell objects; farther ones are obstacles like others.

    Raises:
        UserError: if ``object_range`` is not within what the columns measure.
    """

    def __init__(self, env: TrialEnv, object_range: float = MAX_RANGE) -> None:
        super().__init__(env)
        require(0 < object_range <= MAX_RANGE, "env.object_range", object_range, f"above 0 and at most {MAX_RANGE}")
        self._object_range = object_range / MAX_RANGE
        self._episode_steps = env.episode_steps
        observation_spaces = dict(env.observation_spaces)
        observation_spaces.pop("semantic", None)  # numbers of instances mean nothing to a policy
        observation_spaces["position"] = spaces.Box(-np.inf, np.inf, (4 + 4 * len(_WAVELENGTHS),), np.float32)
        if "depth" in observation_spaces:
            observation_spaces["depth"] = spaces.Box(0, 255, observation_spaces["depth"].shape, np.uint8)
        if "column_type" in observation_spaces:
            (n_columns,) = observation_spaces["column_type"].shape  # type: ignore[misc]
            observation_spaces["column_range"] = spaces.Box(0.0, 1.0, (2 * n_columns,), np.float32)
            observation_spaces["column_type"] = spaces.MultiDiscrete([len(OBJECT_TYPES) + 1] * n_columns)
            observation_spaces["column_goal"] = spaces.Box(0.0, 1.0, (n_columns,), np.float32)
        observation_spaces["previous_action"] = spaces.Discrete(env.n_actions + 1)
        observation_spaces["episode_time"] = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.observation_space = spaces.Dict(observation_spaces)

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin a trial."""
        observation, info = self.env.reset(**kwargs)
        return self._rewrite(observation, 0, 0), info

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Take a step of the trial."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        previous, time = (0, 0) if info["episode_end"] else (int(action) + 1, info["episode_length"])
        return self._rewrite(observation, previous, time), float(reward), terminated, truncated, info

    def _rewrite(self, observation: dict[str, np.ndarray], previous_action: int, time: int) -> dict[str, Any]:
        rewritten: dict[str, Any] = dict(observation)
        rewritten.pop("semantic", None)
        phases = (2 * np.pi * observation["position"][:2, None] / _WAVELENGTHS).ravel()
        rewritten["position"] = np.concatenate([observation["position"], np.sin(phases), np.cos(phases)])
        if "depth" in observation:
            rewritten["depth"] = np.round(255 * observation["depth"]).astype(np.uint8)
        if "column_type" in observation:
            ranges, types = observation["column_range"].copy(), observation["column_type"].copy()
            too_far = ranges[:, 1] > self._object_range
            ranges[too_far, 1], types[too_far] = 1.0, 0
            rewritten["column_range"], rewritten["column_type"] = ranges.ravel(), types
            goal = int(observation["goal"].argmax()) + 1
            rewritten["column_goal"] = np.where(types == goal, 1.0 - ranges[:, 1], 0.0).astype(np.float32)
        rewritten["previous_action"] = previous_action
        rewritten["episode_time"] = np.array([time / self._episode_steps], np.float32)
        return rewritten
