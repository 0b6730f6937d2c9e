"""Images of grid worlds, for videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FLOOR, LINE = (236, 236, 230), (200, 200, 194)
BLUE, ORANGE, GREEN, DARK = (31, 90, 170), (240, 140, 30), (60, 150, 70), (70, 70, 74)


class Shape(NamedTuple):
    """How an object is drawn: as a disc of diameter ``size`` cells if ``size`` is below 1, else as the whole cell."""

    meaning: str
    colour: tuple[int, int, int]
    size: float = 1.0


AGENT = Shape("agent", BLUE, 0.6)

Mark = tuple[Sequence[int], Shape]
"""A shape, and the row and column of its cell."""


def draw_grid(n_rows: int, n_columns: int, marks: Sequence[Mark], side: int = 40) -> NDArray[np.uint8]:
    """Return an image, uint8 ``[n_rows * side, n_columns * side, 3]``; later marks cover earlier ones."""
    image = np.full((n_rows * side, n_columns * side, 3), FLOOR, np.uint8)
    offset = (np.arange(side) + 0.5) / side - 0.5
    distance = np.hypot(*np.meshgrid(offset, offset))
    for (row, column), (_, colour, size) in marks:
        inside = distance < size / 2 if size < 1 else np.ones_like(distance, dtype=bool)
        image[row * side : (row + 1) * side, column * side : (column + 1) * side][inside] = colour
    image[::side], image[:, ::side] = LINE, LINE
    return image
