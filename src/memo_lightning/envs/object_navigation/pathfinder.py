"""The part of habitat-sim's path finder that habitat-lab's maps and measures use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memo_lightning.houses.navigation import Navigator


class HousePathfinder:
    """Path finder of a house, with habitat-sim's method names.

    Args:
        navigator: navigator of the house.
        rng: generator of the random points.
    """

    def __init__(self, navigator: Navigator, rng: np.random.Generator) -> None:
        self._navigator = navigator
        self._rng = rng

    def get_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest x, y, z of the house."""
        (x0, z0), (x1, z1) = self._navigator.lower, self._navigator.upper
        return np.array([x0, 0.0, z0]), np.array([x1, 0.0, z1])

    def get_topdown_view(self, meters_per_pixel: float, height: float) -> np.ndarray:
        """Return where the agent can stand, bool ``[rows, columns]``, with z downwards and x to the right."""
        return self._navigator.free_map(meters_per_pixel)

    def is_navigable(self, point: Sequence[float]) -> bool:
        """Return whether the agent can stand at a point."""
        return self._navigator.is_free(float(point[0]), float(point[2]))

    def get_random_navigable_point(self) -> np.ndarray:
        """Return a point where the agent can stand."""
        x, z = self._navigator.sample(self._rng)
        return np.array([x, 0.0, z])
