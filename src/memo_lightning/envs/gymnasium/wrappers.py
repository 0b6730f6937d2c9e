"""Gymnasium wrappers that make tasks need a memory."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import numpy as np
from numpy.typing import NDArray

from memo_lightning.errors import require


class SelectComponents(gymnasium.ObservationWrapper):
    """Keep some components of a vector observation, e.g. positions without velocities.

    Args:
        env: an environment whose observation is a vector.
        keep: indices of the components to keep.

    Raises:
        UserError: if there is no such component.
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
