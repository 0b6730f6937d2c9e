"""The surface of a solid as patches: each is the image of the unit square, with a texture of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from memo_lightning.houses.shapes import Solid

_SIDES = 32  # of the polygon that approximates a circle


@dataclass(frozen=True)
class Patch:
    """A part of a solid's surface, in the solid's own coordinates.

    Args:
        size: extent along u and v, metres; it sets the texture's resolution.
        steps: number of quadrilaterals along u and v.
        at: maps u and v, arrays of the same shape with values from 0 to 1, to points ``[..., 3]``.
    """

    size: tuple[float, float]
    steps: tuple[int, int]
    at: Callable[[np.ndarray, np.ndarray], np.ndarray]


def patches_of(solid: Solid) -> list[Patch]:
    """Return the patches that make up the surface of a solid."""
    if solid.kind == "box":
        return [_face(solid.size, axis, sign) for axis in range(3) for sign in (-1, 1)]
    if solid.kind == "ellipsoid":
        return [_ellipsoid(solid.size)]
    bottom, half, top = solid.size
    patches = [_side(bottom, half, top)]
    patches += [_disc(radius, level) for radius, level in ((bottom, -half), (top, half)) if radius > 0]
    return patches


def mesh_of(patch: Patch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points ``[n, 3]``, their (u, v) ``[n, 2]`` and triangles ``[m, 3]`` that face outwards."""
    columns, rows = patch.steps
    u, v = np.meshgrid(np.linspace(0, 1, columns + 1), np.linspace(0, 1, rows + 1))
    points = patch.at(u, v).reshape(-1, 3)
    corner = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).ravel()
    right, above = corner + 1, corner + columns + 1
    triangles = np.concatenate(
        [np.stack([corner, right, above], axis=1), np.stack([right, above + 1, above], axis=1)],
    )
    a, b, c = (points[triangles[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    full = (normals**2).sum(axis=1) > 1e-16  # at a pole two corners coincide
    triangles, normals, middles = triangles[full], normals[full], (a + b + c)[full]
    # Solids are convex and contain their origin, so a triangle faces outwards if it faces away from the origin.
    inwards = (normals * middles).sum(axis=1) < 0
    triangles[inwards] = triangles[inwards][:, ::-1]
    return points, np.stack([u.ravel(), v.ravel()], axis=1), triangles


def _face(half: tuple[float, float, float], axis: int, sign: int) -> Patch:
    # Of the two axes across the face, the vertical one goes along v.
    along, up = {0: (2, 1), 1: (0, 2), 2: (0, 1)}[axis]

    def at(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        point = np.empty((*u.shape, 3))
        point[..., axis] = sign * half[axis]
        point[..., along] = (2 * u - 1) * half[along]
        point[..., up] = (2 * v - 1) * half[up]
        return point

    return Patch((2 * half[along], 2 * half[up]), (1, 1), at)


def _side(bottom: float, half: float, top: float) -> Patch:
    def at(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return _around(u, bottom + (top - bottom) * v, (2 * v - 1) * half)

    return Patch((2 * math.pi * max(bottom, top), 2 * half), (_SIDES, 1), at)


def _disc(radius: float, level: float) -> Patch:
    def at(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return _around(u, radius * v, np.full_like(u, level))

    return Patch((2 * math.pi * radius, radius), (_SIDES, 1), at)


def _ellipsoid(radii: tuple[float, float, float]) -> Patch:
    def at(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        latitude = math.pi * (v - 0.5)
        return _around(u, np.cos(latitude), np.sin(latitude)) * np.array(radii)

    return Patch((2 * math.pi * max(radii[0], radii[2]), math.pi * radii[1]), (_SIDES, _SIDES // 2), at)


def _around(u: np.ndarray, radius: np.ndarray, height: np.ndarray) -> np.ndarray:
    angle = 2 * math.pi * u
    return np.stack([radius * np.cos(angle), height, radius * np.sin(angle)], axis=-1)
