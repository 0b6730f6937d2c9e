"""habitat-lab sensors of the column observation, for any simulator that has ``columns()``."""

from __future__ import annotations

from typing import Any

import numpy as np
from gym import spaces
from habitat.core.registry import registry
from habitat.core.simulator import Sensor, SensorTypes, Simulator
from omegaconf import DictConfig

from memo_lightning.houses import OBJECT_TYPES


class _ColumnSensor(Sensor):
    name: str

    def __init__(self, sim: Simulator, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        self._sim = sim
        super().__init__(config=config)

    def _get_uuid(self, *args: Any, **kwargs: Any) -> str:
        return self.name

    def _get_sensor_type(self, *args: Any, **kwargs: Any) -> SensorTypes:
        return SensorTypes.NULL


@registry.register_sensor
class ColumnRangeSensor(_ColumnSensor):
    """Distance to the nearest obstacle and object per column; see :class:`~memo_lightning.houses.columns.Columns`."""

    name = "column_range"

    def _get_observation_space(self, *args: Any, config: DictConfig, **kwargs: Any) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (config.n_columns, 2), np.float32)

    def get_observation(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Return float32 ``[W, 2]``."""
        return self._sim.columns().range


@registry.register_sensor
class ColumnTypeSensor(_ColumnSensor):
    """Type number of the nearest object per column, 0 for none; see :class:`~memo_lightning.houses.columns.Columns`."""

    name = "column_type"

    def _get_observation_space(self, *args: Any, config: DictConfig, **kwargs: Any) -> spaces.Box:
        return spaces.Box(0, len(OBJECT_TYPES), (config.n_columns,), np.int64)

    def get_observation(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Return int64 ``[W]``."""
        return self._sim.columns().type
