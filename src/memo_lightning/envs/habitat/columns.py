"""A light observation: per column of a picture, how far the way is free and which type of object is seen.

This is what a small robot with a depth camera and an object detector would pass on. It is computed from a depth
and a semantic picture, so any simulator can give it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from memo_lightning.envs.habitat.camera import Camera, Pose

MAX_RANGE = 8.0
_OBSTACLE_HEIGHTS = (0.05, 1.8)  # metres above the floor; what is lower or higher is in nobody's way


class Columns(NamedTuple):
    """One value per column; W columns.

    ``range`` is float32 ``[W, 2]``: the horizontal distance to the nearest obstacle and to the nearest object, as
    a fraction of :data:`MAX_RANGE`, 1 where there is none. ``type`` is int64 ``[W]``: the number of that object's
    type, from 1, and 0 where there is none.
    """

    range: np.ndarray
    type: np.ndarray


def columns_of(
    camera: Camera, pose: Pose, depth: np.ndarray, semantic: np.ndarray, type_of_instance: np.ndarray
) -> Columns:
    """Reduce a picture to its columns.

    Args:
        camera: that took the picture.
        pose: it was taken from.
        depth: metres along the optical axis ``[H, W]``.
        semantic: instance ids ``[H, W]``.
        type_of_instance: the number of the object type of each instance id; 0 for none.
    """
    eye, right, up, forward = pose.eye_and_axes(camera.eye_height)
    rises = forward[1] + camera.rows * up[1]  # [H], per metre of depth
    height = eye[1] - pose.y + depth * rises[:, None]
    level = (forward[[0, 2]] + camera.rows[:, None] * up[[0, 2]])[:, None] + camera.columns[:, None] * right[
        [0, 2]
    ]
    distance = depth * np.sqrt((level**2).sum(axis=-1))

    low, high = _OBSTACLE_HEIGHTS
    obstacle = np.where((height > low) & (height < high), distance, MAX_RANGE).min(axis=0)
    types = type_of_instance[semantic]
    to_object = np.where(types > 0, distance, MAX_RANGE)
    nearest = to_object.argmin(axis=0)
    every = np.arange(camera.width)
    ranges = np.stack([obstacle, to_object[nearest, every]], axis=1) / MAX_RANGE
    found = np.where(ranges[:, 1] < 1.0, types[nearest, every], 0)
    return Columns(np.minimum(ranges, 1.0).astype(np.float32), found)
