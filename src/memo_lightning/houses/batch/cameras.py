"""Camera data for the kernels, precomputed for all directions in which an agent can look.

Notation used for shapes:
    - A: headings, one per turn; D: pitches of the camera
    - H, W: rows and columns of the image
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from memo_lightning.houses.camera import Camera
from memo_lightning.houses.columns import slopes_of
from memo_lightning.houses.pose import HEADINGS, Pose
from memo_lightning.houses.ray_caster import make_rays
from memo_lightning.houses.rules import MAX_PITCH, TURN_ANGLE

PITCHES = tuple(range(-MAX_PITCH, MAX_PITCH + 1, TURN_ANGLE))  # of the camera, degrees
LEVEL = PITCHES.index(0)


class Lens(NamedTuple):
    """A camera in the form that kernels read.

    Args:
        columns: float64 ``[W]``, horizontal slopes of the pixel columns, positive to the right.
        rows: float64 ``[H]``, vertical slopes of the pixel rows, positive upwards.
        axes: float64 ``[A, D, 3, 3]``, unit vectors right, up and forward.
        edges: float64 ``[A, D, 4, 3]``, outward normals of the planes through the outermost pixels.
        rays: float32 ``[A, D, 3, H, W]``, see :func:`~memo_lightning.houses.ray_caster.make_rays`.
        across: float64 ``[A, D, H, W]``, see :func:`~memo_lightning.houses.columns.slopes_of`.
        upwards: float64 ``[A, D, H]``, see the same function.
        eye_height: height above the feet, metres.
    """

    columns: np.ndarray
    rows: np.ndarray
    axes: np.ndarray
    edges: np.ndarray
    rays: np.ndarray
    across: np.ndarray
    upwards: np.ndarray
    eye_height: float


def lens_of(camera: Camera) -> Lens:
    """Return a camera in the form that kernels read."""
    views = [[Pose(0.0, 0.0, 0.0, heading, pitch).eye_and_axes(0.0) for pitch in PITCHES] for heading in HEADINGS]
    axes = np.array(views)[:, :, 1:]
    slopes = [[slopes_of(view, camera.columns, camera.rows) for view in row] for row in views]
    right, up, forward = (axes[:, :, k] for k in range(3))
    left_most, right_most, top, bottom = camera.columns[0], camera.columns[-1], camera.rows[0], camera.rows[-1]
    edges = [right - right_most * forward, left_most * forward - right, up - top * forward, bottom * forward - up]
    return Lens(
        columns=camera.columns,
        rows=camera.rows,
        axes=axes,
        edges=np.stack(edges, axis=2),
        rays=np.array([[make_rays(view, camera.columns, camera.rows) for view in row] for row in views]),
        across=np.array([[across for across, _ in row] for row in slopes]),
        upwards=np.array([[upwards for _, upwards in row] for row in slopes]),
        eye_height=camera.eye_height,
    )
