"""``HouseSim-v0``: generated houses as a habitat-lab simulator that needs no habitat-sim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import quaternion
from gym import spaces
from habitat.config.default import get_agent_config
from habitat.core.registry import registry
from habitat.core.simulator import AgentState, Observations, SensorSuite, Simulator
from habitat.sims.habitat_simulator.actions import HabitatSimActions
from omegaconf import DictConfig

from memo_lightning.envs.habitat.episodes import ExtObjNavEpisode
from memo_lightning.envs.habitat.sensors import HouseSimSensor
from memo_lightning.envs.object_navigation.pathfinder import HousePathfinder
from memo_lightning.errors import UserError, require
from memo_lightning.houses import (
    REFERENCE_CAMERA,
    Camera,
    HouseSpec,
    Placement,
    Pose,
    View,
    build_house,
    build_navigator,
)
from memo_lightning.houses.columns import Columns, columns_camera
from memo_lightning.houses.furnishing import AGENT_RADIUS
from memo_lightning.houses.navigation import DistanceField, Navigator
from memo_lightning.houses.pose import heading_of
from memo_lightning.houses.rules import MAX_PITCH
from memo_lightning.houses.shapes import concatenate

_FLOOR_TOLERANCE = 0.5  # metres that a point may be above or below the floor it belongs to
_FIELDS_KEPT = 256
_ACTIONS = ("stop", "move_forward", "turn_left", "turn_right")


@registry.register_simulator(name="HouseSim-v0")
class HouseSim(Simulator):
    """One agent in a generated house.

    The house comes from ``config.scene`` (see :class:`~memo_lightning.houses.house.HouseSpec`), its objects come from
    the episode. Objects do not block the agent. Positions are x, y, z in metres with the feet at y = 0; rotations are
    quaternions about the y axis, as in habitat.

    Args:
        config: ``habitat.simulator`` of the configuration.

    Attributes:
        forward_step: length of a step, metres.

    Raises:
        UserError: if the scene is not a generated house, or the agent or a sensor does not fit this simulator.
    """

    def __init__(self, config: DictConfig) -> None:
        agent = get_agent_config(config)
        radius = AGENT_RADIUS / 100
        require(agent.radius == radius, "agent radius", agent.radius, f"{radius} in generated houses")
        self.habitat_config = config
        # Reading a configuration takes as long as rendering an image, so what every step needs is kept.
        self.forward_step, self._turn_angle = float(config.forward_step_size), float(config.turn_angle)
        self._sensor_suite = SensorSuite(
            [_sensor_class(sensor.type)(config=sensor) for sensor in agent.sim_sensors.values()]
        )
        self._columns_camera = columns_camera(config.n_columns) if config.n_columns else None
        self._action_space = spaces.Discrete(len(_ACTIONS))
        self._rng = np.random.default_rng(config.seed)
        self._collided = False
        self._start: tuple[Sequence[float], Sequence[float]] | None = None
        self._load(config.scene)
        self._pose = Pose(*self._start_point(), heading=0.0)
        self._set_placement(Placement(config.scene, 0, ()))

    @property
    def sensor_suite(self) -> SensorSuite:
        """The sensors that make the observations."""
        return self._sensor_suite

    @property
    def action_space(self) -> spaces.Space:
        """The actions of :meth:`step`; tilting the camera is a task's action, as in habitat-lab."""
        return self._action_space

    @property
    def up_vector(self) -> np.ndarray:
        """The upward direction."""
        return np.array([0.0, 1.0, 0.0])

    @property
    def forward_vector(self) -> np.ndarray:
        """The direction that an unrotated agent faces."""
        return np.array([0.0, 0.0, -1.0])

    @property
    def previous_step_collided(self) -> bool:
        """Whether something was in the way of the last step; a property, as in habitat-sim's simulator."""
        return self._collided

    @property
    def pathfinder(self) -> HousePathfinder:
        """The path finder that habitat-lab's map functions and its ``TopDownMap`` measure use."""
        return HousePathfinder(self._navigator, self._rng)

    @property
    def pose(self) -> Pose:
        """The agent's pose with the camera's pitch."""
        return self._pose

    @property
    def placement(self) -> Placement:
        """The objects in the house."""
        return self._placement

    @property
    def navigator(self) -> Navigator:
        """Movement and distances in the house."""
        return self._navigator

    def view_from(self, pose: Pose) -> View:
        """Return the view from a pose."""
        return View(pose, self._solids)

    def look(self, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Return what a camera on the agent sees: colours uint8 ``[H, W, 3]``, and depth float32 ``[H, W]``, metres."""
        return self._view.rgb(camera), self._view.depth(camera)

    def pixels_in_view(self, instance: int) -> int:
        """Return how many pixels of the reference camera show an object, whatever the agent's sensors are."""
        return self._view.count_pixels(REFERENCE_CAMERA, instance)

    def columns(self) -> Columns:
        """Return the column observation.

        Raises:
            UserError: if the configuration has no columns.
        """
        if self._columns_camera is None:
            raise UserError("n_columns=0: must be at least 1 for this observation")
        return self._view.columns(self._columns_camera)

    def seed(self, seed: int) -> None:
        """Seed the random navigable points; nothing else is random here."""
        self._rng = np.random.default_rng(seed)

    def reconfigure(self, config: DictConfig, episode: ExtObjNavEpisode | None = None) -> None:
        """Load the house and objects of the next episode if they differ from those loaded.

        The next :meth:`reset` puts the agent at the episode's start, or, without an episode, where the configuration
        says.
        """
        self.habitat_config = config
        if episode is not None:
            self._start = episode.start_position, episode.start_rotation
        else:
            agent = get_agent_config(config)
            self._start = (agent.start_position, agent.start_rotation) if agent.is_set_start_state else None
        if config.scene != self._house.spec.scene_id:
            self._load(config.scene)
            self._set_placement(Placement(config.scene, 0, ()))
        if episode is not None and episode.placement is not self._placement:
            self._set_placement(episode.placement)

    def reset(self) -> Observations:
        """Put the agent at its start, looking straight ahead, and return what it observes.

        Raises:
            UserError: if the agent cannot stand there.
        """
        if self._start is not None:
            done = self.set_agent_state(*self._start)
            require(done, "start_position", self._start[0], f"a navigable point of {self._house.spec.scene_id}")
        self._collided = False
        return self._observe()

    def step(self, action: int | None, *args: Any, **kwargs: Any) -> Observations:
        """Perform one of habitat's actions; ``None`` and stop do nothing.

        Raises:
            ValueError: if there is no such action.
        """
        self._collided = False
        if action is None or action == HabitatSimActions.stop:
            pass
        elif action == HabitatSimActions.move_forward:
            self._move(self.forward_step)
        elif action == HabitatSimActions.turn_left:
            self._turn(self._turn_angle)
        elif action == HabitatSimActions.turn_right:
            self._turn(-self._turn_angle)
        else:
            known = ", ".join(f"{HabitatSimActions[name]} ({name})" for name in _ACTIONS)
            raise ValueError(f"action={action!r}: must be None or one of {known}")
        return self._observe()

    def tilt_camera(self, degrees: float) -> None:
        """Tilt the camera up, or down if ``degrees`` is negative, limited to :data:`MAX_PITCH`."""
        pitch = min(max(self._pose.pitch + degrees, -MAX_PITCH), MAX_PITCH)
        self._look_from(replace(self._pose, pitch=pitch))

    def step_physics(self, delta: float) -> None:
        """Do nothing: nothing moves by itself."""

    def render(self, mode: str = "rgb") -> np.ndarray:
        """Return the observation of the sensor named ``mode``: ``rgb``, ``depth`` or ``semantic``.

        Raises:
            ValueError: if there is no such sensor.
        """
        if mode not in self._sensor_suite.sensors:
            raise ValueError(f"mode={mode!r}: must be one of {list(self._sensor_suite.sensors)}")
        return self._sensor_suite.get(mode).get_observation(self._view)

    def get_agent_state(self, agent_id: int = 0) -> AgentState:
        """Return the agent's position, float64 ``[3]``, and rotation, a quaternion."""
        x, y, z, w = self._pose.rotation
        position = np.array([self._pose.x, self._pose.y, self._pose.z])
        return AgentState(position, quaternion.quaternion(w, x, y, z))

    def get_agent(self, agent_id: int = 0) -> SimpleNamespace:
        """Return an object whose ``state`` is the agent's state, as habitat-lab's map functions expect."""
        return SimpleNamespace(state=self.get_agent_state(agent_id))

    def set_agent_state(
        self,
        position: Sequence[float],
        rotation: Sequence[float] | quaternion.quaternion,
        agent_id: int = 0,
        reset_sensors: bool = True,
    ) -> bool:
        """Move the agent.

        Args:
            position: x, y, z in metres.
            rotation: quaternion, or its x, y, z, w; about the y axis.
            agent_id: ignored, as there is only one agent.
            reset_sensors: whether the camera looks straight ahead afterwards.

        Returns:
            Whether the agent can stand there; if not, it stays where it was.
        """
        if not self.is_navigable(position):
            return False
        if isinstance(rotation, quaternion.quaternion):
            y, w = rotation.y, rotation.w
        else:
            y, w = rotation[1], rotation[3]
        pitch = 0.0 if reset_sensors else self._pose.pitch
        x, height, z = (float(value) for value in position)
        self._look_from(Pose(x, height, z, heading_of(y, w), pitch))
        return True

    def get_observations_at(
        self,
        position: Sequence[float] | None = None,
        rotation: Sequence[float] | quaternion.quaternion | None = None,
        keep_agent_at_new_pose: bool = False,
    ) -> Observations | None:
        """Return what the agent would observe elsewhere, or None if it cannot stand there."""
        before = self._pose
        can_stand = True
        if position is not None and rotation is not None:
            can_stand = self.set_agent_state(position, rotation, reset_sensors=False)
        if not can_stand:
            return None
        observations = self._observe()
        if not keep_agent_at_new_pose:
            self._look_from(before)
        return observations

    def geodesic_distance(
        self,
        position_a: Sequence[float] | np.ndarray,
        position_b: Sequence[float] | Sequence[Sequence[float]] | np.ndarray,
        episode: Any = None,
    ) -> float:
        """Return the length of the shortest path from one point to the nearest of one or more others.

        The distances to the same goals are computed once and cached, in the episode if one is given.

        Returns:
            Metres; infinite if there is no path or an end is not navigable.
        """
        field = episode._shortest_path_cache if episode is not None else None
        if field is None:
            field = self._field(position_b)
            if episode is not None:
                episode._shortest_path_cache = field
        return field.distance(float(position_a[0]), float(position_a[2]))

    def get_straight_shortest_path_points(
        self, position_a: Sequence[float], position_b: Sequence[float]
    ) -> list[np.ndarray]:
        """Return the points where the shortest path bends, including both ends; empty if there is no path."""
        path = self._field(position_b).path(float(position_a[0]), float(position_a[2]))
        return [np.array([x, position_a[1], z], np.float32) for x, z in path]

    def sample_navigable_point(self) -> list[float]:
        """Return a point where the agent can stand, uniform over the floor."""
        return list(self._start_point())

    def is_navigable(self, point: Sequence[float]) -> bool:
        """Return whether the agent can stand at a point."""
        return abs(point[1]) <= _FLOOR_TOLERANCE and self._navigator.is_free(float(point[0]), float(point[2]))

    def distance_to_closest_obstacle(self, position: Sequence[float], max_search_radius: float = 2.0) -> float:
        """Return how far the agent can move in any direction, at most ``max_search_radius`` metres."""
        if not self.is_navigable(position):
            return 0.0
        return min(self._navigator.clearance(float(position[0]), float(position[2])), max_search_radius)

    def _load(self, scene_id: str) -> None:
        spec = HouseSpec.from_scene_id(scene_id)
        self._house = build_house(spec)
        self._navigator = build_navigator(spec)
        self._fields: dict[tuple[tuple[float, float], ...], DistanceField] = {}

    def _set_placement(self, placement: Placement) -> None:
        if placement.scene_id != self._house.spec.scene_id:
            raise UserError(f"placement of {placement.scene_id!r}: must belong to {self._house.spec.scene_id!r}")
        self._placement = placement
        self._solids = concatenate(self._house.arrays, placement.arrays)
        self._look_from(self._pose)

    def _start_point(self) -> tuple[float, float, float]:
        x, z = self._navigator.sample(self._rng)
        return x, 0.0, z

    def _look_from(self, pose: Pose) -> None:
        self._pose = pose
        self._view = self.view_from(pose)

    def _observe(self) -> Observations:
        return self._sensor_suite.get_observations(self._view)

    def _move(self, length: float) -> None:
        pose = self._pose
        x, z, self._collided = self._navigator.move(pose.x, pose.z, *pose.ahead(length))
        self._look_from(replace(pose, x=x, z=z))

    def _turn(self, degrees: float) -> None:
        self._look_from(replace(self._pose, heading=(self._pose.heading + degrees) % 360.0))

    def _field(self, goals: Any) -> DistanceField:
        points = [goals] if np.ndim(goals[0]) == 0 else goals
        key = tuple((float(point[0]), float(point[2])) for point in points)
        if key not in self._fields:
            if len(self._fields) >= _FIELDS_KEPT:
                del self._fields[next(iter(self._fields))]
            self._fields[key] = self._navigator.field(key)
        return self._fields[key]


def _sensor_class(name: str) -> Any:
    sensor = registry.get_sensor(name)
    is_ours = sensor is not None and issubclass(sensor, HouseSimSensor)
    require(is_ours, "sensor type", name, "a sensor of HouseSim-v0, e.g. HouseSimRGBSensor")
    return sensor
