"""habitat-lab sensors of :class:`~memo_lightning.envs.habitat.simulator.HouseSim`.

Each sensor reads the simulator's :class:`~memo_lightning.houses.view.View`. Shapes, types and units of
the camera sensors are those of habitat-sim's sensors in habitat-lab.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gym import spaces
from habitat.core.registry import registry
from habitat.core.simulator import DepthSensor, RGBSensor, SemanticSensor, Sensor
from omegaconf import DictConfig

from memo_lightning.errors import UserError, require
from memo_lightning.houses import Camera, View


def camera_of(config: DictConfig) -> Camera:
    """Return the camera that a sensor's configuration describes.

    Raises:
        UserError: if the camera is not above the agent's middle, looking straight ahead.
    """
    x, eye_height, z = config.position
    if x or z or any(config.orientation):
        raise UserError(
            f"{config.type} has position={list(config.position)} and orientation={list(config.orientation)}: "
            "must be [0, height, 0] and [0, 0, 0]"
        )
    return Camera(config.width, config.height, float(config.hfov), float(eye_height))


class HouseSimSensor(Sensor):
    """Base of all sensors, with a camera; must come before habitat's own class among the bases."""

    def __init__(self, config: DictConfig) -> None:
        self.camera = camera_of(config)
        super().__init__(config=config)


@registry.register_sensor
class HouseSimRGBSensor(HouseSimSensor, RGBSensor):
    """Colours, uint8 ``[H, W, 3]``."""

    def _get_observation_space(self, *args: Any, **kwargs: Any) -> spaces.Box:
        return spaces.Box(0, 255, (self.camera.height, self.camera.width, 3), np.uint8)

    def get_observation(self, view: View) -> np.ndarray:
        """Return the image."""
        return view.rgb(self.camera)


@registry.register_sensor
class HouseSimDepthSensor(HouseSimSensor, DepthSensor):
    """Distance along the optical axis, float32 ``[H, W, 1]``; clipped, and scaled to 0..1 if configured."""

    def __init__(self, config: DictConfig) -> None:
        low, high = config.min_depth, config.max_depth
        require(0 <= low < high, "min_depth", low, f"at least 0 and below max_depth={high}")
        self._low, self._high = np.float32(low), np.float32(high)
        self._normalize = bool(config.normalize_depth)
        super().__init__(config)

    def _get_observation_space(self, *args: Any, **kwargs: Any) -> spaces.Box:
        low, high = (0.0, 1.0) if self._normalize else (self._low, self._high)
        return spaces.Box(low, high, (self.camera.height, self.camera.width, 1), np.float32)

    def get_observation(self, view: View) -> np.ndarray:
        """Return the image."""
        depth = np.clip(view.depth(self.camera), self._low, self._high)[..., None]
        return (depth - self._low) / (self._high - self._low) if self._normalize else depth


@registry.register_sensor
class HouseSimSemanticSensor(HouseSimSensor, SemanticSensor):
    """Instance ids, int32 ``[H, W, 1]``; 0 where there is no object."""

    def _get_observation_space(self, *args: Any, **kwargs: Any) -> spaces.Box:
        shape = (self.camera.height, self.camera.width, 1)
        return spaces.Box(0, np.iinfo(np.int32).max, shape, np.int32)

    def get_observation(self, view: View) -> np.ndarray:
        """Return the image."""
        return view.semantic(self.camera)[..., None]
