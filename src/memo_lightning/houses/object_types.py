"""The twenty object types to search for, each with its own shape, size and colours.

Every object stands on its origin and is at most :data:`MAX_HEIGHT` tall, so that it fits on any surface,
shelves included, and stays below the camera when it stands on the floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from memo_lightning.houses.shapes import Colour, Paint, Pattern, Solid

MAX_HEIGHT = 0.35

Point = tuple[float, float, float]


@dataclass(frozen=True)
class ObjectType:
    """One type of object.

    Args:
        name: the name by which episodes ask for it.
        solids: its parts; the origin is the centre of its base.
    """

    name: str
    solids: tuple[Solid, ...]

    @property
    def radius(self) -> float:
        """Radius, in metres, of the vertical cylinder about the origin that encloses the object."""
        return max(_reach(solid) for solid in self.solids)


def _reach(solid: Solid) -> float:
    x, _, z = solid.centre
    a, _, b = solid.size
    if solid.kind == "box":
        return math.sqrt((abs(x) + a) ** 2 + (abs(z) + b) ** 2)
    return math.sqrt(x * x + z * z) + max(a, b)


def _box(centre: Point, size: Point, colour: Colour, second: Colour = (0, 0, 0), pattern: Pattern = "plain",
         scale: float = 0.05) -> Solid:  # fmt: skip
    """Return a box; ``size`` is its full extent."""
    half = (size[0] / 2, size[1] / 2, size[2] / 2)
    return Solid("box", centre, half, Paint(colour, second, pattern, scale))


def _frustum(low: float, high: float, radii: tuple[float, float], colour: Colour, second: Colour = (0, 0, 0),
             pattern: Pattern = "plain", scale: float = 0.05) -> Solid:  # fmt: skip
    """Return a frustum about the vertical axis between two heights; ``radii`` are those at its bottom and top."""
    size = (radii[0], (high - low) / 2, radii[1])
    return Solid("frustum", (0.0, (low + high) / 2, 0.0), size, Paint(colour, second, pattern, scale))


def _ellipsoid(centre: Point, radii: Point, colour: Colour, second: Colour = (0, 0, 0),
               pattern: Pattern = "plain", scale: float = 0.05) -> Solid:  # fmt: skip
    return Solid("ellipsoid", centre, radii, Paint(colour, second, pattern, scale))


RED: Colour = (222, 32, 36)
ORANGE: Colour = (250, 128, 16)
YELLOW: Colour = (252, 214, 20)
GREEN: Colour = (28, 158, 60)
CYAN: Colour = (20, 200, 214)
BLUE: Colour = (28, 74, 216)
PURPLE: Colour = (134, 40, 178)
PINK: Colour = (255, 120, 182)
BROWN: Colour = (122, 72, 34)
WHITE: Colour = (250, 250, 250)
BLACK: Colour = (24, 24, 26)
SILVER: Colour = (188, 194, 202)
GOLD: Colour = (232, 178, 32)

OBJECT_TYPES: tuple[ObjectType, ...] = (
    ObjectType("ball", (_ellipsoid((0, 0.14, 0), (0.14, 0.14, 0.14), RED, WHITE, "rings", 0.07),)),
    ObjectType(
        "vase",
        (
            _frustum(0.0, 0.14, (0.06, 0.11), BLUE, WHITE, "rings", 0.035),
            _frustum(0.14, 0.25, (0.11, 0.04), BLUE, WHITE, "rings", 0.035),
            _frustum(0.25, 0.31, (0.04, 0.065), BLUE),
        ),
    ),
    ObjectType(
        "lamp",
        (
            _frustum(0.0, 0.03, (0.09, 0.08), BLACK),
            _frustum(0.03, 0.20, (0.015, 0.015), SILVER),
            _frustum(0.18, 0.34, (0.15, 0.08), (255, 244, 150)),
        ),
    ),
    ObjectType(
        "plant",
        (
            _frustum(0.0, 0.13, (0.075, 0.10), (186, 88, 48)),
            _ellipsoid((0, 0.22, 0), (0.14, 0.12, 0.14), GREEN, (60, 196, 84), "checks", 0.05),
        ),
    ),
    ObjectType(
        "books",
        (
            _box((0.0, 0.03, 0), (0.24, 0.06, 0.18), RED),
            _box((0.01, 0.085, 0), (0.22, 0.05, 0.17), YELLOW),
            _box((-0.01, 0.14, 0), (0.21, 0.06, 0.16), BLUE),
            _box((0.0, 0.19, 0), (0.18, 0.04, 0.14), GREEN),
        ),
    ),
    ObjectType(
        "bottle",
        (
            _frustum(0.0, 0.20, (0.06, 0.06), (16, 110, 52)),
            _frustum(0.06, 0.15, (0.062, 0.062), WHITE),
            _frustum(0.20, 0.26, (0.06, 0.025), (16, 110, 52)),
            _frustum(0.26, 0.34, (0.025, 0.025), (16, 110, 52)),
        ),
    ),
    ObjectType(
        "laptop",
        (
            _box((0, 0.012, 0.02), (0.28, 0.024, 0.20), SILVER),
            _box((0, 0.12, -0.085), (0.28, 0.21, 0.02), BLACK),
            _box((0, 0.125, -0.078), (0.24, 0.17, 0.012), CYAN, BLUE, "checks", 0.06),
        ),
    ),
    ObjectType(
        "teddy bear",
        (
            _ellipsoid((0, 0.10, 0), (0.10, 0.10, 0.08), BROWN),
            _ellipsoid((0, 0.24, 0), (0.075, 0.07, 0.07), (150, 94, 50)),
            _ellipsoid((-0.06, 0.30, 0), (0.035, 0.035, 0.025), BROWN),
            _ellipsoid((0.06, 0.30, 0), (0.035, 0.035, 0.025), BROWN),
            _ellipsoid((0, 0.10, 0.03), (0.065, 0.075, 0.065), (216, 176, 122)),
            _ellipsoid((0, 0.225, 0.045), (0.035, 0.03, 0.04), (240, 214, 170)),
        ),
    ),
    ObjectType(
        "toy car",
        (
            _box((0, 0.085, 0), (0.28, 0.09, 0.13), (236, 24, 120)),
            _box((-0.01, 0.165, 0), (0.15, 0.08, 0.12), (170, 220, 250)),
            *(_ellipsoid((x, 0.045, z), (0.045, 0.045, 0.02), BLACK) for x in (-0.085, 0.085) for z in (-0.065, 0.065)),
        ),
    ),
    ObjectType(
        "backpack",
        (
            _box((0, 0.16, 0), (0.24, 0.32, 0.13), PURPLE),
            _box((0, 0.10, 0.085), (0.18, 0.14, 0.05), (196, 130, 232)),
            _box((0, 0.335, 0), (0.08, 0.03, 0.03), BLACK),
        ),
    ),
    ObjectType("basket", (_frustum(0.0, 0.20, (0.11, 0.155), (214, 170, 96), (140, 96, 44), "checks", 0.04),)),
    ObjectType(
        "bowl",
        (
            _frustum(0.0, 0.03, (0.06, 0.06), WHITE),
            _frustum(0.03, 0.12, (0.06, 0.155), CYAN),
            _frustum(0.115, 0.122, (0.135, 0.135), WHITE),
        ),
    ),
    ObjectType(
        "kettle",
        (
            _frustum(0.0, 0.19, (0.11, 0.08), SILVER),
            _frustum(0.19, 0.22, (0.055, 0.03), BLACK),
            _box((0.12, 0.13, 0), (0.06, 0.03, 0.03), SILVER),
            _box((-0.12, 0.12, 0), (0.03, 0.14, 0.03), BLACK),
        ),
    ),
    ObjectType(
        "radio",
        (
            _box((0, 0.10, 0), (0.28, 0.20, 0.11), (0, 142, 132)),
            *(_ellipsoid((x, 0.10, z), (0.05, 0.05, 0.012), BLACK) for x in (-0.075, 0.075) for z in (-0.055, 0.055)),
            _box((0.11, 0.27, 0), (0.012, 0.15, 0.012), SILVER),
        ),
    ),
    ObjectType(
        "candle",
        (
            _frustum(0.0, 0.03, (0.11, 0.11), GOLD),
            _frustum(0.03, 0.22, (0.05, 0.05), WHITE),
            _ellipsoid((0, 0.265, 0), (0.028, 0.05, 0.028), ORANGE),
        ),
    ),
    ObjectType(
        "gift",
        (
            _box((0, 0.11, 0), (0.22, 0.22, 0.22), PINK),
            _box((0, 0.111, 0), (0.05, 0.222, 0.224), YELLOW),
            _box((0, 0.111, 0), (0.224, 0.222, 0.05), YELLOW),
            _ellipsoid((0, 0.25, 0), (0.06, 0.03, 0.06), YELLOW),
        ),
    ),
    ObjectType(
        "traffic cone",
        (
            _box((0, 0.015, 0), (0.22, 0.03, 0.22), ORANGE),
            _frustum(0.03, 0.34, (0.09, 0.02), ORANGE, WHITE, "rings", 0.08),
        ),
    ),
    ObjectType(
        "robot",
        (
            _box((-0.045, 0.04, 0), (0.06, 0.08, 0.08), BLACK),
            _box((0.045, 0.04, 0), (0.06, 0.08, 0.08), BLACK),
            _box((0, 0.15, 0), (0.20, 0.14, 0.12), (130, 140, 152)),
            _box((0, 0.275, 0), (0.14, 0.11, 0.11), SILVER),
            _ellipsoid((-0.035, 0.285, 0.055), (0.024, 0.024, 0.02), RED),
            _ellipsoid((0.035, 0.285, 0.055), (0.024, 0.024, 0.02), RED),
        ),
    ),
    ObjectType(
        "trophy",
        (
            _box((0, 0.03, 0), (0.13, 0.06, 0.13), BLACK),
            _frustum(0.06, 0.16, (0.02, 0.03), GOLD),
            _frustum(0.16, 0.32, (0.05, 0.12), GOLD),
        ),
    ),
    ObjectType(
        "duck",
        (
            _ellipsoid((0, 0.09, -0.01), (0.10, 0.09, 0.13), YELLOW),
            _ellipsoid((0, 0.22, 0.05), (0.07, 0.07, 0.07), YELLOW),
            _ellipsoid((0, 0.21, 0.125), (0.04, 0.018, 0.035), ORANGE),
            _ellipsoid((-0.04, 0.24, 0.10), (0.013, 0.016, 0.013), BLACK),
            _ellipsoid((0.04, 0.24, 0.10), (0.013, 0.016, 0.013), BLACK),
        ),
    ),
)
