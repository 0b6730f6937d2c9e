"""The habitat-lab configuration of ExtObjNav in generated houses.

Importing this module registers the simulator, the dataset and the task that the configuration names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

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
    SimulatorCameraSensorConfig,
    SimulatorConfig,
    SoftSPLMeasurementConfig,
    SPLMeasurementConfig,
    SuccessMeasurementConfig,
    TaskConfig,
    TurnLeftActionConfig,
    TurnRightActionConfig,
)
from omegaconf import DictConfig, OmegaConf

from memo_lightning.envs.habitat import dataset as _dataset  # noqa: F401
from memo_lightning.envs.habitat import simulator as _simulator  # noqa: F401
from memo_lightning.envs.habitat import task as _task_module  # noqa: F401
from memo_lightning.envs.habitat.camera import REFERENCE_CAMERA
from memo_lightning.envs.habitat.furnishing import AGENT_RADIUS
from memo_lightning.envs.habitat.house import HouseSpec
from memo_lightning.errors import require

SensorName = Literal["rgb", "depth", "semantic", "columns"]
EYE_HEIGHT = REFERENCE_CAMERA.eye_height
HFOV = int(REFERENCE_CAMERA.hfov)
MAX_DEPTH = 10.0


@dataclass
class ExtObjNavRewardConfig(MeasurementConfig):
    """The reward of METHOD.md."""

    type: str = "ExtObjNavReward"
    success_reward: float = 2.0
    slack_reward: float = -0.003


@dataclass
class ExtObjNavTaskConfig(TaskConfig):
    """The task's own settings: metres to the goal, and pixels of it in view, at which a stop is a success."""

    type: str = "ExtObjNav-v1"
    success_distance: float = 2.0
    success_pixels: int = 10


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
) -> DictConfig:
    """Return the configuration of ``habitat.Env``.

    Args:
        sensors: what the agent observes beside the goal and its position.
        image_size: side of the pictures, 64 to 256 pixels.
        n_columns: columns of the light observation.
        can_tilt: whether the agent has the actions that tilt its camera.
        episode_steps: after which an episode ends.
        split: of the dataset.
        data_path: file to read the dataset from; empty to generate it.
        dataset: further arguments of :class:`~memo_lightning.envs.habitat.sources.GeneratedSource`.
        seed: of what habitat draws itself.

    Raises:
        UserError: if a value is out of range.
    """
    for name in sensors:
        require(name in get_args(SensorName), "sensors", name, f"among {', '.join(get_args(SensorName))}")
    require(64 <= image_size <= 256, "image_size", image_size, "between 64 and 256")
    require(episode_steps >= 1, "episode_steps", episode_steps, "at least 1")
    simulator = SimulatorConfig(
        type="HouseSim-v0",
        turn_angle=30,
        forward_step_size=0.25,
        scene=HouseSpec(0).scene_id,
        agents={"main_agent": _agent(sensors, image_size, n_columns)},
        agents_order=["main_agent"],
        habitat_sim_v0=HabitatSimV0Config(allow_sliding=True),
    )
    config = HabitatConfig(
        seed=seed,
        environment=EnvironmentConfig(
            max_episode_steps=episode_steps,
            # Placements follow one another as they are drawn.
            iterator_options=IteratorOptionsConfig(shuffle=False, max_scene_repeat_steps=-1),
        ),
        simulator=simulator,
        task=_task(can_tilt),
        dataset=DatasetConfig(type="ExtObjNav-v1", split=split, data_path=data_path, metadata=dataset),
    )
    # The simulator's seed refers to habitat.seed, so the whole tree is needed to resolve it.
    tree = OmegaConf.create({"habitat": OmegaConf.structured(config)})
    OmegaConf.set_readonly(tree, True)
    return tree


def _agent(sensors: Sequence[SensorName], image_size: int, n_columns: int) -> AgentConfig:
    picture: dict[str, Any] = {
        "width": image_size,
        "height": image_size,
        "hfov": HFOV,
        "position": [0.0, EYE_HEIGHT, 0.0],
    }
    columns = {**picture, "width": n_columns, "height": n_columns}
    available: dict[SensorName, dict[str, Any]] = {
        "rgb": {"rgb_sensor": HabitatSimRGBSensorConfig(type="HouseSimRGBSensor", **picture)},
        "depth": {
            "depth_sensor": HabitatSimDepthSensorConfig(type="HouseSimDepthSensor", max_depth=MAX_DEPTH, **picture)
        },
        "semantic": {"semantic_sensor": HabitatSimSemanticSensorConfig(type="HouseSimSemanticSensor", **picture)},
        "columns": {
            "column_range_sensor": SimulatorCameraSensorConfig(type="HouseSimColumnRangeSensor", **columns),
            "column_type_sensor": SimulatorCameraSensorConfig(type="HouseSimColumnTypeSensor", **columns),
        },
    }
    chosen: dict[str, Any] = {}
    for name in sensors:
        chosen.update(available[name])
    return AgentConfig(height=EYE_HEIGHT, radius=AGENT_RADIUS / 100, sim_sensors=chosen)


def _task(can_tilt: bool) -> ExtObjNavTaskConfig:
    defaults = ExtObjNavTaskConfig()
    # In the order of habitat's own numbers of the actions.
    actions: dict[str, Any] = {
        "stop": ActionConfig(type="ExtObjNavStopAction"),
        "move_forward": MoveForwardActionConfig(),
        "turn_left": TurnLeftActionConfig(),
        "turn_right": TurnRightActionConfig(),
    }
    if can_tilt:
        actions["look_up"] = LookUpActionConfig(type="HouseSimLookUpAction", tilt_angle=30)
        actions["look_down"] = LookDownActionConfig(type="HouseSimLookDownAction", tilt_angle=30)
    return ExtObjNavTaskConfig(
        actions=actions,
        lab_sensors={
            "goal_sensor": LabSensorConfig(type="ObjectTypeGoalSensor"),
            "position_sensor": LabSensorConfig(type="TrialPositionSensor"),
        },
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
