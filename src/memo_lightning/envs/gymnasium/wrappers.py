"""Gymnasium wrappers for tasks that need memory, and for policies that need bounded actions."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import numpy as np
from numpy.typing import NDArray

from memo_lightning.errors import require


class SelectComponents(gymnasium.ObservationWrapper):
    """Wrapper that keeps some components of a vector observation, e.g. positions without velocities.

    Args:
        env: an environment whose observation is a vector.
        keep: indices of the components to keep.

    Raises:
        UserError: if ``keep`` is empty or a component does not exist.
    """

    def __init__(self, env: gymnasium.Env, keep: Sequence[int]) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gymnasium.spaces.Box)
        require(
            len(keep) > 0 and all(0 <= index < space.shape[0] for index in keep),
            "keep",
            list(keep),
            f"indices of the {space.shape[0]} components of the observation",
        )
        self._keep = list(keep)
        self.observation_space = gymnasium.spaces.Box(
            space.low[self._keep], space.high[self._keep], dtype=space.dtype.type
        )

    def observation(self, observation: NDArray) -> NDArray[np.floating]:
        """Return the components to keep."""
        return observation[self._keep]


class BoundActions(gymnasium.Wrapper):
    """Wrapper that gives continuous actions the bounds that a policy needs and their space lacks.

    Actions reach the environment unchanged.

    Args:
        env: an environment with a Box action space.
        low: lowest value of an action; one for all components, or one for each.
        high: highest value, likewise.

    Raises:
        UserError: if actions are not continuous, or the bounds are not an interval within those of the environment.
    """

    def __init__(self, env: gymnasium.Env, low: float | Sequence[float], high: float | Sequence[float]) -> None:
        super().__init__(env)
        space = env.action_space
        require(isinstance(space, gymnasium.spaces.Box), "action_space", space, "a Box")
        assert isinstance(space, gymnasium.spaces.Box)
        for name, bound in (("low", low), ("high", high)):
            fits = np.ndim(bound) == 0 or np.shape(bound) == space.shape
            require(fits, name, bound, f"a number or of shape {space.shape}")
        lows, highs = (np.broadcast_to(bound, space.shape).astype(space.dtype) for bound in (low, high))
        require(bool((lows < highs).all()), "high", high, f"above low={low}")
        inside = (lows >= space.low).all() and (highs <= space.high).all()
        require(bool(inside), "low, high", (low, high), f"within {space.low} to {space.high}")
        self.action_space = gymnasium.spaces.Box(lows, highs, dtype=space.dtype.type)
