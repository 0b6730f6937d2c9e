"""The view from one pose, rendered on demand and cached."""

from __future__ import annotations

import numpy as np

from memo_lightning.houses.camera import Camera
from memo_lightning.houses.columns import Columns, columns_of
from memo_lightning.houses.pose import Pose
from memo_lightning.houses.ray_caster import cast, shade
from memo_lightning.houses.shapes import SolidArrays


class View:
    """Images from one pose; sensors with the same camera share the ray casting.

    Args:
        pose: pose of the agent.
        solids: all visible solids.
    """

    def __init__(self, pose: Pose, solids: SolidArrays) -> None:
        self.pose = pose
        self._solids = solids
        self._casts: dict[Camera, tuple[np.ndarray, np.ndarray]] = {}
        self._columns: dict[Camera, Columns] = {}

    def depth(self, camera: Camera) -> np.ndarray:
        """Return the distance along the optical axis, float32 ``[H, W]`` in metres."""
        return self._cast(camera)[0]

    def semantic(self, camera: Camera) -> np.ndarray:
        """Return instance ids, int32 ``[H, W]``; 0 where there is no object."""
        solid = self._cast(camera)[1]
        return np.where(solid >= 0, self._solids.instance[solid], 0)

    def count_pixels(self, camera: Camera, instance: int) -> int:
        """Return how many pixels show an instance."""
        return int(np.count_nonzero(self.semantic(camera) == instance))

    def rgb(self, camera: Camera) -> np.ndarray:
        """Return colours, uint8 ``[H, W, 3]``."""
        return shade(camera, self.pose, self._solids, *self._cast(camera))

    def columns(self, camera: Camera) -> Columns:
        """Return the column observation."""
        if camera not in self._columns:
            depth, solid = self._cast(camera)
            types = np.where(solid >= 0, self._solids.type[solid], 0)
            self._columns[camera] = columns_of(camera, self.pose, depth, types)
        return self._columns[camera]

    def _cast(self, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        if camera not in self._casts:
            self._casts[camera] = cast(camera, self.pose, self._solids)
        return self._casts[camera]
