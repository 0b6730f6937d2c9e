"""The solids that houses, furniture and objects are made of.

A scene is a list of boxes, frustums (a cylinder is one whose radii are equal) and ellipsoids that stand
upright: they rotate about the vertical axis only. Intersections of rays with each of them are exact, and each is
easy to write as a mesh.

World axes are habitat's: x right, y up, z towards the viewer, in metres; an unrotated agent looks along -z. A
solid rotated by ``yaw`` has its own x axis along ``(cos yaw, 0, -sin yaw)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["box", "frustum", "ellipsoid"]
Pattern = Literal["plain", "checks", "rings", "stripes", "bricks", "planks"]
Colour = tuple[int, int, int]

KINDS: tuple[Kind, ...] = ("box", "frustum", "ellipsoid")
PATTERNS: tuple[Pattern, ...] = ("plain", "checks", "rings", "stripes", "bricks", "planks")


@dataclass(frozen=True)
class Paint:
    """The appearance of a solid.

    Args:
        colour: main colour, 0 to 255 per channel.
        second: the pattern's other colour.
        pattern: ``plain``; ``checks`` in three dimensions; ``rings`` one above the other; ``stripes`` side by
            side; ``bricks``; ``planks`` along the ground.
        scale: size of one element of the pattern, metres.
    """

    colour: Colour
    second: Colour = (0, 0, 0)
    pattern: Pattern = "plain"
    scale: float = 0.1


@dataclass(frozen=True)
class Solid:
    """One upright solid.

    Args:
        kind: ``box``, ``frustum`` or ``ellipsoid``.
        centre: x, y, z of the centre, metres.
        size: half extents along its own x, y, z axes; for a frustum the radius at the bottom, the half height
            and the radius at the top.
        paint: its appearance.
        cos_yaw: cosine of the rotation about the vertical axis.
        sin_yaw: sine of that rotation.
    """

    kind: Kind
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    paint: Paint
    cos_yaw: float = 1.0
    sin_yaw: float = 0.0

    def placed(self, position: Sequence[float], cos_yaw: float, sin_yaw: float) -> Solid:
        """Return this solid after rotating its object about the object's origin and moving it to ``position``."""
        x, y, z = self.centre
        return replace(
            self,
            centre=(
                position[0] + cos_yaw * x + sin_yaw * z,
                position[1] + y,
                position[2] - sin_yaw * x + cos_yaw * z,
            ),
            cos_yaw=self.cos_yaw * cos_yaw - self.sin_yaw * sin_yaw,
            sin_yaw=self.sin_yaw * cos_yaw + self.cos_yaw * sin_yaw,
        )


class SolidArrays(NamedTuple):
    """P solids, packed for the ray caster.

    Args:
        kind: int32 ``[P]``, index in :data:`KINDS`.
        instance: int32 ``[P]``, semantic id; 0 if not part of an object.
        type: int32 ``[P]``, type number of the object, from 1; 0 if not part of an object.
        pattern: int32 ``[P]``, index in :data:`PATTERNS`.
        shape: float64 ``[P, 8]``: centre, size, cosine and sine of the yaw.
        paint: float32 ``[P, 7]``: both colours and the pattern's scale.
    """

    kind: np.ndarray
    instance: np.ndarray
    type: np.ndarray
    pattern: np.ndarray
    shape: np.ndarray
    paint: np.ndarray


def pack(solids: Sequence[Solid], instances: Sequence[int] | int = 0, types: Sequence[int] | int = 0) -> SolidArrays:
    """Pack ``solids`` into arrays, with the semantic id and type number of each; 0 for no object."""
    n = len(solids)
    return SolidArrays(
        kind=np.array([KINDS.index(s.kind) for s in solids], np.int32),
        instance=np.broadcast_to(np.asarray(instances, np.int32), n),
        type=np.broadcast_to(np.asarray(types, np.int32), n),
        pattern=np.array([PATTERNS.index(s.paint.pattern) for s in solids], np.int32),
        shape=np.array([(*s.centre, *s.size, s.cos_yaw, s.sin_yaw) for s in solids]).reshape(n, 8),
        paint=np.array([(*s.paint.colour, *s.paint.second, s.paint.scale) for s in solids], np.float32).reshape(n, 7),
    )


def concatenate(first: SolidArrays, second: SolidArrays) -> SolidArrays:
    """Concatenate two packs of solids."""
    return SolidArrays(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


@lru_cache(maxsize=1024)
def turn(degrees: float) -> tuple[float, float]:
    """Return the cosine and sine of an angle, the same on every machine.

    Maths libraries differ in the last bit; rounding to 12 decimals removes the difference.
    """
    angle = math.radians(degrees)
    return round(math.cos(angle), 12), round(math.sin(angle), 12)
