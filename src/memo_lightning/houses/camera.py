"""A pinhole camera."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from memo_lightning.errors import require
from memo_lightning.houses.shapes import turn


@dataclass(frozen=True)
class Camera:
    """Intrinsics of a pinhole camera with square pixels.

    Args:
        width: image width, pixels.
        height: image height, pixels.
        hfov: horizontal field of view, degrees.
        eye_height: height above the agent's feet, metres.

    Raises:
        UserError: if a number is out of range.
    """

    width: int
    height: int
    hfov: float
    eye_height: float

    def __post_init__(self) -> None:
        require(1 <= self.width <= 4096, "camera width", self.width, "between 1 and 4096 pixels")
        require(1 <= self.height <= 4096, "camera height", self.height, "between 1 and 4096 pixels")
        require(1 <= self.hfov <= 170, "hfov", self.hfov, "between 1 and 170 degrees")
        require(0.1 <= self.eye_height <= 2.5, "eye height", self.eye_height, "between 0.1 and 2.5 metres")

    @cached_property
    def focal_length(self) -> float:
        """Focal length in pixels."""
        cosine, sine = turn(self.hfov / 2)
        return self.width / 2 * cosine / sine

    @cached_property
    def columns(self) -> np.ndarray:
        """Horizontal slope of each pixel column, positive right of the optical axis, float64 ``[width]``."""
        return (np.arange(self.width) + 0.5 - self.width / 2) / self.focal_length

    @cached_property
    def rows(self) -> np.ndarray:
        """Vertical slope of each pixel row, positive above the optical axis, float64 ``[height]``."""
        return (self.height / 2 - np.arange(self.height) - 0.5) / self.focal_length


REFERENCE_CAMERA = Camera(width=64, height=64, hfov=79.0, eye_height=0.88)
"""The camera that decides whether an object can be found, and the default of all sensors."""
