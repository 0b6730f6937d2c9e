"""The column observation: for each image column, how far the way is free and the nearest object's type.

It is what a small robot with a depth camera and an object detector could provide. It is computed from a depth image
and a semantic image, so any simulator can provide it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numba import njit

from memo_lightning.houses.camera import REFERENCE_CAMERA, Camera
from memo_lightning.houses.pose import Pose

MAX_RANGE = 8.0
LOWEST_OBSTACLE, HIGHEST_OBSTACLE = 0.05, 1.8  # metres above the floor; nothing lower or higher blocks the agent


class Columns(NamedTuple):
    """The column observation of one image with W columns.

    Args:
        range: float32 ``[W, 2]``, the horizontal distances to the nearest obstacle and to the nearest object,
            as fractions of :data:`MAX_RANGE`; 1 if there is none in range.
        type: int64 ``[W]``, the type number of that object, from 1; 0 if there is none.
    """

    range: np.ndarray
    type: np.ndarray


def columns_camera(n_columns: int) -> Camera:
    """Return the camera for the columns: the reference camera with ``n_columns`` by ``n_columns`` pixels."""
    return replace(REFERENCE_CAMERA, width=n_columns, height=n_columns)


def columns_of(camera: Camera, pose: Pose, depth: np.ndarray, types: np.ndarray) -> Columns:
    """Reduce an image to its columns.

    Args:
        camera: camera that took the image.
        pose: pose from which it was taken.
        depth: metres along the optical axis, float32 ``[H, W]``.
        types: type number of the object that each pixel shows, int32 ``[H, W]``; 0 for none.
    """
    ranges = np.ones((camera.width, 2), np.float32)
    nearest = np.zeros(camera.width, np.int64)
    view = pose.eye_and_axes(camera.eye_height)
    eye = view[0, 1] - pose.y  # heights are measured from the floor the agent stands on
    across, upwards = slopes_of(view, camera.columns, camera.rows)
    reduce_to_columns(eye, across, upwards, depth, types, ranges, nearest)
    return Columns(ranges, nearest)


@njit(cache=True, error_model="numpy")
def slopes_of(view, columns, rows):  # type: ignore[no-untyped-def]
    """Return how far each ray travels per metre of depth: horizontally ``[H, W]`` and upwards ``[H]``."""
    across, upwards = np.empty((len(rows), len(columns))), np.empty(len(rows))
    for i in range(len(rows)):
        ahead_x = view[3, 0] + rows[i] * view[2, 0]
        ahead_z = view[3, 2] + rows[i] * view[2, 2]
        upwards[i] = view[3, 1] + rows[i] * view[2, 1]
        for j in range(len(columns)):
            x = ahead_x + columns[j] * view[1, 0]
            z = ahead_z + columns[j] * view[1, 2]
            across[i, j] = np.sqrt(x * x + z * z)
    return across, upwards


@njit(cache=True, error_model="numpy")
def reduce_to_columns(eye, across, upwards, depth, types, ranges, nearest):  # type: ignore[no-untyped-def]
    """Write each column's nearest obstacle and object, given the eye's height and slopes from :func:`slopes_of`."""
    for i in range(depth.shape[0]):
        for j in range(depth.shape[1]):
            along = float(depth[i, j])
            fraction = along * across[i, j] / MAX_RANGE
            height = eye + along * upwards[i]
            if LOWEST_OBSTACLE < height < HIGHEST_OBSTACLE and fraction < ranges[j, 0]:
                ranges[j, 0] = fraction
            if types[i, j] > 0 and fraction < ranges[j, 1]:
                ranges[j, 1] = fraction
                nearest[j] = types[i, j]
