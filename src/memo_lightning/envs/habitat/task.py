"""``ExtObjNav-v1``: find an object of a given type, and stop when it is near and in view.

Success, SPL, SoftSPL and DistanceToGoal are habitat-lab's own measures. habitat-lab's Success asks whether
the task's ``is_stop_called`` holds and the goal is near; here ``is_stop_called`` holds only for a stop with
the object in view, so the measure applies the whole rule. Any stop ends the episode.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gym import spaces
from habitat.config import read_write
from habitat.core.embodied_task import Measure, SimulatorTaskAction
from habitat.core.registry import registry
from habitat.core.simulator import Sensor, SensorTypes, Simulator
from habitat.tasks.nav.nav import DistanceToGoal, DistanceToGoalReward, NavigationTask, StopAction, Success
from habitat.utils.geometry_utils import quaternion_from_coeff, quaternion_rotate_vector
from omegaconf import DictConfig

from memo_lightning.envs.habitat.episodes import ExtObjNavEpisode
from memo_lightning.errors import UserError
from memo_lightning.houses import OBJECT_TYPES

_TYPE_NAMES = [object_type.name for object_type in OBJECT_TYPES]


@registry.register_task(name="ExtObjNav-v1")
class ExtObjNavTask(NavigationTask):
    """Object navigation in which a stop counts only with the object in view.

    Args:
        config: ``habitat.task`` of the configuration.
        sim: the simulator; its ``pixels_in_view(instance)`` counts the pixels that show an object.
        dataset: the dataset.

    Attributes:
        is_stop_called: whether the agent stopped near an instance of the goal that is in view.
        has_stopped: whether it stopped at all.
        success_distance: metres along the shortest path below which the goal is near.
        success_pixels: number of visible pixels from which the goal counts as in view.
    """

    def __init__(self, config: DictConfig, sim: Simulator, dataset: Any = None) -> None:
        self.is_stop_called = self.has_stopped = False
        self.success_distance = float(config.success_distance)
        self.success_pixels = int(config.success_pixels)
        super().__init__(config=config, sim=sim, dataset=dataset)

    def reset(self, episode: ExtObjNavEpisode) -> Any:
        """Begin an episode.

        Raises:
            UserError: if no instance of the goal can be reached from the start.
        """
        self._episode = episode
        self.is_stop_called = self.has_stopped = False
        observations = super().reset(episode)
        goals = [goal.position for goal in episode.goals]
        distance = self._sim.geodesic_distance(episode.start_position, goals, episode)
        if not math.isfinite(distance):
            raise UserError(
                f"episode {episode.episode_id}: {episode.object_category!r} cannot be reached from its start"
            )
        return observations

    def overwrite_sim_config(self, config: DictConfig, episode: ExtObjNavEpisode) -> DictConfig:
        """Set the episode's scene; the simulator reads the agent's start from the episode.

        Writing the start into the configuration, as habitat-lab does, takes longer than the rest of a reset.
        """
        if config.simulator.scene != episode.scene_id:
            with read_write(config):
                config.simulator.scene = episode.scene_id
        return config

    def stop(self) -> None:
        """End the episode, with success if a goal is near and in view."""
        self.has_stopped = True
        self.is_stop_called = self.is_goal_near_and_seen()

    def is_goal_near_and_seen(self) -> bool:
        """Return whether one and the same instance of the goal is near and in view."""
        position = self._sim.get_agent_state().position
        return any(
            self._sim.pixels_in_view(goal.object_name_id) >= self.success_pixels
            and self._sim.geodesic_distance(position, goal.position) < self.success_distance
            for goal in self._episode.goals
        )

    def _check_episode_is_active(self, *args: Any, **kwargs: Any) -> bool:
        return not self.has_stopped


@registry.register_task_action
class ExtObjNavStopAction(StopAction):
    """Action that stops and ends the episode."""

    def reset(self, task: ExtObjNavTask, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the task resets itself."""

    def step(self, task: ExtObjNavTask, *args: Any, **kwargs: Any) -> None:
        """Stop the task."""
        task.stop()


class _TiltAction(SimulatorTaskAction):
    """Action that tilts the camera of a simulator with ``tilt_camera``."""

    sign: int

    def __init__(self, *args: Any, config: DictConfig, sim: Simulator, **kwargs: Any) -> None:
        super().__init__(*args, config=config, sim=sim, **kwargs)
        self._degrees = self.sign * float(config.tilt_angle)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Tilt by the configured ``tilt_angle``."""
        self._sim.tilt_camera(self._degrees)


@registry.register_task_action
class HouseSimLookUpAction(_TiltAction):
    """Action that tilts the camera up."""

    sign = 1


@registry.register_task_action
class HouseSimLookDownAction(_TiltAction):
    """Action that tilts the camera down."""

    sign = -1


@registry.register_measure
class ExtObjNavReward(Measure):
    """Reward of a step: success, minus the change in distance to the nearest instance, minus a cost of time."""

    cls_uuid = "ext_objnav_reward"

    def __init__(self, sim: Simulator, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        self._success_reward, self._slack_reward = float(config.success_reward), float(config.slack_reward)
        super().__init__()

    def _get_uuid(self, *args: Any, **kwargs: Any) -> str:
        return self.cls_uuid

    def reset_metric(self, *args: Any, task: ExtObjNavTask, **kwargs: Any) -> None:
        """Begin an episode."""
        needed = [DistanceToGoal.cls_uuid, Success.cls_uuid, DistanceToGoalReward.cls_uuid]
        task.measurements.check_measure_dependencies(self.uuid, needed)
        self._metric = 0.0

    def update_metric(self, *args: Any, task: ExtObjNavTask, **kwargs: Any) -> None:
        """Set the reward of this step."""
        measures = task.measurements.measures
        success = measures[Success.cls_uuid].get_metric()
        progress = measures[DistanceToGoalReward.cls_uuid].get_metric()
        self._metric = self._success_reward * success + progress + self._slack_reward


@registry.register_sensor
class ObjectTypeGoalSensor(Sensor):
    """The type of object to find, one-hot float32 ``[20]``."""

    def __init__(self, sim: Simulator, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config=config)

    def _get_uuid(self, *args: Any, **kwargs: Any) -> str:
        return "goal"

    def _get_sensor_type(self, *args: Any, **kwargs: Any) -> SensorTypes:
        return SensorTypes.SEMANTIC

    def _get_observation_space(self, *args: Any, **kwargs: Any) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (len(_TYPE_NAMES),), np.float32)

    def get_observation(self, *args: Any, episode: ExtObjNavEpisode, **kwargs: Any) -> np.ndarray:
        """Return the one-hot vector."""
        one_hot = np.zeros(len(_TYPE_NAMES), np.float32)
        one_hot[_TYPE_NAMES.index(str(episode.object_category))] = 1.0
        return one_hot


@registry.register_sensor
class TrialPositionSensor(Sensor):
    """Position and heading of the agent.

    float32 ``[4]``: metres to the right, metres ahead, and sine and cosine of the turn to the left. In the ``trial``
    frame they are relative to the start of the placement's first episode; in the ``house`` frame, to the house's own
    origin, as for a robot with a map. Either frame stays the same in all episodes of a trial, so what was seen in one
    of them can be found again in another.
    """

    def __init__(self, sim: Simulator, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        self._sim = sim
        self._in_house = config.frame == "house"
        super().__init__(config=config)

    def _get_uuid(self, *args: Any, **kwargs: Any) -> str:
        return "position"

    def _get_sensor_type(self, *args: Any, **kwargs: Any) -> SensorTypes:
        return SensorTypes.POSITION

    def _get_observation_space(self, *args: Any, **kwargs: Any) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def get_observation(self, *args: Any, episode: ExtObjNavEpisode, **kwargs: Any) -> np.ndarray:
        """Return the pose."""
        state = self._sim.get_agent_state()
        offset, turned = state.position, state.rotation
        if not self._in_house:
            to_origin = quaternion_from_coeff(episode.origin_rotation).inverse()
            offset = quaternion_rotate_vector(to_origin, state.position - np.array(episode.origin_position))
            turned = to_origin * state.rotation
        sine, cosine = 2 * turned.w * turned.y, turned.w**2 - turned.y**2
        return np.array([offset[0], -offset[2], sine, cosine], np.float32)
