"""Kernels that write the observations of all agents."""

from __future__ import annotations

import numpy as np
from numba import njit

from memo_lightning.houses.batch.rendering import render
from memo_lightning.houses.columns import reduce_to_columns
from memo_lightning.houses.pose import HEADINGS, Pose
from memo_lightning.houses.ray_caster import shade_pixels
from memo_lightning.houses.rules import MAX_DEPTH


def facings() -> np.ndarray:
    """Return sine and cosine of every heading relative to every other and, last, to the house: ``[A + 1, A, 2]``.

    They are float32, computed with the same quaternion products as in habitat-lab.
    """
    quaternions = [Pose(0.0, 0.0, 0.0, heading).rotation for heading in HEADINGS]
    origins = [(1.0, 0.0) if origin is None else _inverse(*origin) for origin in (*map(_y_and_w, quaternions), None)]
    result = np.empty((len(origins), len(quaternions), 2), np.float32)
    for i, (a_w, a_y) in enumerate(origins):
        for j, (y, w) in enumerate(map(_y_and_w, quaternions)):
            turned_w, turned_y = a_w * w - a_y * y, a_w * y + a_y * w
            result[i, j] = 2 * turned_w * turned_y, turned_w**2 - turned_y**2
    return result


def rotations() -> np.ndarray:
    """Return w and y of every heading's inverse quaternion, and of the inverse of that: ``[A, 4]``."""
    rows = []
    for heading in HEADINGS:
        w, y = _inverse(*_y_and_w(Pose(0.0, 0.0, 0.0, heading).rotation))
        rows.append((w, y, *_inverse(y, w)))
    return np.array(rows)


def _y_and_w(rotation: list[float]) -> tuple[float, float]:
    return rotation[1], rotation[3]


def _inverse(y: float, w: float) -> tuple[float, float]:
    """Return w and y of the inverse of a quaternion."""
    norm = w * w + y * y
    return w / norm, -y / norm


@njit(cache=True, nogil=True, error_model="numpy")
def write_positions(agents, facing, rotation, in_house, positions, first, stride):  # type: ignore[no-untyped-def]
    """Write metres to the right and ahead, and sine and cosine of the heading, float32 ``[N, 4]``."""
    for row in range(first, len(positions), stride):
        x, z = agents.position[row, 0], agents.position[row, 2]
        origin = len(rotation)
        if not in_house:
            origin = agents.origin_turn[row]
            a_w, a_y, b_w, b_y = rotation[origin]
            dx, dz = x - agents.origin[row, 0], z - agents.origin[row, 2]
            p_x, p_z = a_w * dx + a_y * dz, a_w * dz - a_y * dx
            x, z = p_x * b_w - p_z * b_y, p_x * b_y + p_z * b_w
        positions[row, 0], positions[row, 1] = x, -z
        positions[row, 2:] = facing[origin, agents.turn[row]]


@njit(cache=True, nogil=True, error_model="numpy")
def write_images(agents, scenes, lens, with_rgb, rgb, with_depth, depths, first, stride):  # type: ignore[no-untyped-def]
    """Write colours, uint8 ``[N, H, W, 3]``, and depth, float32 ``[N, H, W, 1]``: 1 is :data:`MAX_DEPTH` or more."""
    size = len(lens.rows), len(lens.columns)
    depth, solid = np.empty(size, np.float32), np.empty(size, np.int32)
    most = np.float32(MAX_DEPTH)
    for row in range(first, len(agents.place), stride):
        place = agents.place[row]
        x, y, z = agents.position[row]
        view = render(scenes, place, x, y, z, agents.turn[row], agents.tilt[row], lens, depth, solid)
        if with_rgb:
            rgb[row] = 0
            shade_pixels(
                view, lens.columns, lens.rows, depth, solid, scenes.kind[place], scenes.pattern[place],
                scenes.shape[place], scenes.paint[place], rgb[row],
            )  # fmt: skip
        if with_depth:
            for i in range(size[0]):
                for j in range(size[1]):
                    depths[row, i, j, 0] = min(depth[i, j], most) / most


@njit(cache=True, nogil=True, error_model="numpy")
def write_columns(agents, scenes, lens, ranges, types, first, stride):  # type: ignore[no-untyped-def]
    """Write the column observation, float32 ``[N, W, 2]`` and int64 ``[N, W]``; see :class:`Columns`."""
    size = len(lens.rows), len(lens.columns)
    depth, solid, shown = np.empty(size, np.float32), np.empty(size, np.int32), np.empty(size, np.int32)
    for row in range(first, len(agents.place), stride):
        place, turn, tilt = agents.place[row], agents.turn[row], agents.tilt[row]
        x, y, z = agents.position[row, 0], agents.position[row, 1], agents.position[row, 2]
        view = render(scenes, place, x, y, z, turn, tilt, lens, depth, solid)
        _look_up(scenes.type[place], solid, shown)
        ranges[row], types[row] = np.float32(1.0), 0
        across, upwards = lens.across[turn, tilt], lens.upwards[turn, tilt]
        reduce_to_columns(view[0, 1] - y, across, upwards, depth, shown, ranges[row], types[row])


@njit(cache=True, nogil=True, error_model="numpy")
def _look_up(values, solid, shown):  # type: ignore[no-untyped-def]
    """Write the value of the solid that each pixel shows; 0 for none."""
    for i in range(solid.shape[0]):
        for j in range(solid.shape[1]):
            p = solid[i, j]
            shown[i, j] = values[p] if p >= 0 else 0
