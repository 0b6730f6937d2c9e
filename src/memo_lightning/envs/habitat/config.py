"""The habitat-lab configuration of ExtObjNav in generated houses.

Importing this module registers the simulator, the dataset and the task that the configuration names.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from habitat.config.default_structured_configs import (
    ActionConfig,
    AgentConfig,
    DatasetConfig,
    DistanceToGoalMeasurementConfig,
    DistanceToGoalRewardMeasurementConfig,
    EnvironmentConfig,
    HabitatConfig,
    HabitatSimDepthSensorConfig,
    HabitatSimRGBSensorConfig,
    HabitatSimSemanticSensorConfig,
    HabitatSimV0Config,
    IteratorOptionsConfig,
    LabSensorConfig,
    LookDownActionConfig,
    LookUpActionConfig,
    MeasurementConfig,
    MoveForwardActionConfig,
    SimulatorConfig,
    SoftSPLMeasurementConfig,
    SPLMeasurementConfig,
    SuccessMeasurementConfig,
    TaskConfig,
    TurnLeftActionConfig,
    TurnRightActionConfig,
)
from omegaconf import DictConfig, OmegaConf

from memo_lightning.envs.habitat import column_sensors as _column_sensors  # noqa: F401
from memo_lightning.envs.habitat import dataset as _dataset  # noqa: F401
from memo_lightning.envs.habitat import simulator as _simulator  # noqa: F401
from memo_lightning.envs.habitat import task as _task_module  # noqa: F401
from memo_lightning.envs.habitat.shim import INSTALL_HABITAT_SIM, habitat_sim_is_installed
from memo_lightning.envs.object_navigation.settings import (
    EYE_HEIGHT,
    HFOV,
    PositionFrame,
    SensorName,
    SimulatorName,
    check_observations,
    check_simulator,
)
from memo_lightning.errors import UserError, require
from memo_lightning.houses import HouseSpec, rules
from memo_lightning.houses.furnishing import AGENT_RADIUS

MAX_CLIMB = 0.1  # metres; no more than the height of the lowest shelf, which is no floor


@dataclass
class ExtObjNavRewardConfig(MeasurementConfig):
    """Reward of ExtObjNav; see :class:`~memo_lightning.envs.habitat.task.ExtObjNavReward`."""

    type: str = "ExtObjNavReward"
    success_reward: float = rules.SUCCESS_REWARD
    slack_reward: float = rules.SLACK_REWARD


@dataclass
class ExtObjNavTaskConfig(TaskConfig):
    """The task's own settings: a stop succeeds within this distance (metres) and with this many pixels in view."""

    type: str = "ExtObjNav-v1"
    success_distance: float = rules.SUCCESS_DISTANCE
    success_pixels: int = rules.SUCCESS_PIXELS


@dataclass
class PositionSensorConfig(LabSensorConfig):
    """Settings of the position sensor, with its frame: ``trial`` or ``house``."""

    type: str = "TrialPositionSensor"
    frame: str = "trial"


@dataclass
class ColumnSensorConfig(LabSensorConfig):
    """Settings of one of the column sensors."""

    n_columns: int = 0


@dataclass
class ExtObjNavSimulatorConfig(SimulatorConfig):
    """Settings that both simulators add to habitat's: the number of columns that are observed, 0 for none."""

    n_columns: int = 0


@dataclass
class ExtObjNavDatasetConfig(DatasetConfig):
    """The dataset's own setting: the habitat-sim scene dataset with the scenes."""

    type: str = "ExtObjNav-v1"
    scene_dataset: str = "default"


def make_config(
    sensors: Sequence[SensorName] = ("rgb", "depth"),
    image_size: int = 64,
    n_columns: int = 32,
    can_tilt: bool = True,
    episode_steps: int = 500,
    split: str = "train",
    data_path: str = "",
    dataset: dict[str, Any] | None = None,
    seed: int = 0,
    simulator: SimulatorName = "house_sim",
    scene_dataset: str = "",
    object_folder: str = "",
    position_frame: PositionFrame = "trial",
) -> DictConfig:
    """Return the configuration of ``habitat.Env``.

    Args:
        sensors: what the agent observes besides the goal and its position.
        image_size: side of the images, 64 to 256 pixels.
        n_columns: number of columns in the column observation.
        can_tilt: whether the agent has the actions that tilt its camera.
        episode_steps: steps after which an episode ends.
        split: split of the dataset.
        data_path: file to read the dataset from; empty to generate it.
        dataset: further arguments of :class:`~memo_lightning.houses.sources.GeneratedSource`.
        seed: seed of habitat's own random draws.
        simulator: ``house_sim``, which needs no habitat-sim, or ``habitat_sim``.
        scene_dataset: for ``habitat_sim``: path of a ``*.scene_dataset_config.json``; ``data_path`` then gives
            the episodes in its scenes. ``memo export-houses`` writes both.
        object_folder: for ``habitat_sim``: folder with models of the object types, for scene datasets that have none,
            such as the ``objects`` folder of ``memo export-houses``.
        position_frame: frame of the agent's position; see
            :class:`~memo_lightning.envs.habitat.task.TrialPositionSensor`.

    Raises:
        UserError: if a value is out of range.
    """
    check_observations(sensors, image_size, n_columns, position_frame)
    require(episode_steps >= 1, "env.episode_length", episode_steps, "at least 1")
    check_simulator(simulator, scene_dataset, object_folder)
    if simulator == "habitat_sim":
        _import_habitat_sim(scene_dataset, data_path)
    columns = n_columns if "columns" in sensors else 0
    sim_config = ExtObjNavSimulatorConfig(
        type="ExtObjNavSim-v0" if simulator == "habitat_sim" else "HouseSim-v0",
        turn_angle=rules.TURN_ANGLE,
        forward_step_size=rules.FORWARD_STEP,
        scene=HouseSpec(0).scene_id,
        n_columns=columns,
        additional_object_paths=[object_folder] if object_folder else [],
        agents={"main_agent": _agent(simulator, sensors, image_size)},
        agents_order=["main_agent"],
        # The default device would end the process where there is no CUDA.
        habitat_sim_v0=HabitatSimV0Config(allow_sliding=True, gpu_device_id=0 if torch.cuda.is_available() else -1),
    )
    config = HabitatConfig(
        seed=seed,
        environment=EnvironmentConfig(
            max_episode_steps=episode_steps,
            # Placements come in the order in which they are drawn.
            iterator_options=IteratorOptionsConfig(shuffle=False, max_scene_repeat_steps=-1),
        ),
        simulator=sim_config,
        task=_task(can_tilt, columns, position_frame),
        dataset=ExtObjNavDatasetConfig(
            split=split, data_path=data_path, metadata=dataset, scene_dataset=scene_dataset or "default"
        ),
    )
    # The simulator's seed refers to habitat.seed, so the whole tree is needed to resolve it.
    tree = OmegaConf.create({"habitat": OmegaConf.structured(config)})
    OmegaConf.set_readonly(tree, True)
    return tree


def _import_habitat_sim(scene_dataset: str, data_path: str) -> None:
    """Register habitat-sim's simulator; raise :class:`UserError` if it or one of its files is missing."""
    if not habitat_sim_is_installed():
        raise UserError(f"env.simulator=habitat_sim: habitat-sim is not installed: {INSTALL_HABITAT_SIM}")
    for name, value in (("scene_dataset", scene_dataset), ("data_path", data_path)):
        require(bool(value), f"env.{name}", value, "a file for env.simulator=habitat_sim; memo export-houses writes it")
    is_there = Path(scene_dataset).is_file()
    require(is_there, "env.scene_dataset", scene_dataset, "an existing file <name>.scene_dataset_config.json")
    importlib.import_module("memo_lightning.envs.habitat.habitat_sim_simulator")


def _agent(simulator: SimulatorName, sensors: Sequence[SensorName], image_size: int) -> AgentConfig:
    camera: dict[str, Any] = {
        "width": image_size,
        "height": image_size,
        "hfov": HFOV,
        "position": [0.0, EYE_HEIGHT, 0.0],
    }
    prefix = "HouseSim" if simulator == "house_sim" else "HabitatSim"
    available: dict[SensorName, Any] = {
        "rgb": HabitatSimRGBSensorConfig(type=f"{prefix}RGBSensor", **camera),
        "depth": HabitatSimDepthSensorConfig(type=f"{prefix}DepthSensor", max_depth=rules.MAX_DEPTH, **camera),
        "semantic": HabitatSimSemanticSensorConfig(type=f"{prefix}SemanticSensor", **camera),
    }
    chosen = {f"{name}_sensor": available[name] for name in sensors if name in available}
    return AgentConfig(height=EYE_HEIGHT, radius=AGENT_RADIUS / 100, max_climb=MAX_CLIMB, sim_sensors=chosen)


def _task(can_tilt: bool, n_columns: int, frame: PositionFrame) -> ExtObjNavTaskConfig:
    defaults = ExtObjNavTaskConfig()
    # In the order of habitat's own action numbers.
    actions: dict[str, Any] = {
        "stop": ActionConfig(type="ExtObjNavStopAction"),
        "move_forward": MoveForwardActionConfig(),
        "turn_left": TurnLeftActionConfig(),
        "turn_right": TurnRightActionConfig(),
    }
    if can_tilt:
        actions["look_up"] = LookUpActionConfig(type="HouseSimLookUpAction", tilt_angle=rules.TURN_ANGLE)
        actions["look_down"] = LookDownActionConfig(type="HouseSimLookDownAction", tilt_angle=rules.TURN_ANGLE)
    lab_sensors: dict[str, Any] = {
        "goal_sensor": LabSensorConfig(type="ObjectTypeGoalSensor"),
        "position_sensor": PositionSensorConfig(frame=frame),
    }
    if n_columns:
        for name in ("Range", "Type"):
            sensor = ColumnSensorConfig(type=f"Column{name}Sensor", n_columns=n_columns)
            lab_sensors[f"column_{name.lower()}_sensor"] = sensor
    return ExtObjNavTaskConfig(
        actions=actions,
        lab_sensors=lab_sensors,
        measurements={
            "distance_to_goal": DistanceToGoalMeasurementConfig(),
            "success": SuccessMeasurementConfig(success_distance=defaults.success_distance),
            "spl": SPLMeasurementConfig(),
            "soft_spl": SoftSPLMeasurementConfig(),
            "distance_to_goal_reward": DistanceToGoalRewardMeasurementConfig(),
            "ext_objnav_reward": ExtObjNavRewardConfig(),
        },
        reward_measure="ext_objnav_reward",
        success_measure="success",
        end_on_success=True,
        goal_sensor_uuid="goal",
    )
