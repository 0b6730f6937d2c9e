"""An independent renderer of solids: triangles, and the Möller-Trumbore test of every ray against every triangle."""

from itertools import pairwise

import numpy as np

FACES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


def triangles_of(solid, n=48):
    """Return the triangles [N, 3, 3] of a solid; round solids become fine polyhedra with ``n`` sides."""
    if solid.kind == "box":
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * solid.size
        own = np.array([corners[[f[0], *pair]] for f in FACES for pair in ((f[1], f[2]), (f[2], f[3]))])
    else:
        own = _round(solid, n)
    c, s = solid.cos_yaw, solid.sin_yaw
    turned = own @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
    return turned + np.array(solid.centre)


def _round(solid, n):
    angles = 2 * np.pi * np.arange(n + 1) / n
    circle = np.stack([np.cos(angles), np.zeros(n + 1), np.sin(angles)], axis=1)
    if solid.kind == "frustum":
        bottom, half, top = solid.size
        levels = [(0.0, -half), (bottom, -half), (top, half), (0.0, half)]
        rings = [radius * circle + [0, y, 0] for radius, y in levels]
    else:
        slopes = np.pi * (np.arange(n // 2 + 1) / (n // 2) - 0.5)
        rings = [(np.cos(t) * circle + [0, np.sin(t), 0]) * solid.size for t in slopes]
    strips = [
        (low[k], low[k + 1], high[k + j]) if j == 0 else (low[k + 1], high[k + 1], high[k])
        for low, high in pairwise(rings)
        for k in range(n)
        for j in (0, 1)
    ]
    return np.array(strips)


def nearest_hits(origin, directions, triangles):
    """Return the smallest t [R] with origin + t * direction on a triangle; infinite if the ray hits none."""
    return first_hits(origin, directions, triangles)[0]


def first_hits(origin, directions, triangles):
    """Return the smallest t [R] and the index [R] of the triangle that is hit; -1 for none."""
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    first, second = b - a, c - a
    best, which = np.full(len(directions), np.inf), np.full(len(directions), -1)
    for k, direction in enumerate(directions):
        p = np.cross(direction, second)
        determinant = (first * p).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            offset = origin - a
            u = (offset * p).sum(axis=1) / determinant
            q = np.cross(offset, first)
            v = (q @ direction) / determinant
            t = (second * q).sum(axis=1) / determinant
            hit = (np.abs(determinant) > 1e-14) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 1e-6)
        if hit.any():
            which[k] = np.flatnonzero(hit)[t[hit].argmin()]
            best[k] = t[which[k]]
    return best, which
