"""habitat-sim's own simulator with the objects of a placement: ``ExtObjNavSim-v0``.

Import this module only where habitat-sim is installed. The simulator is habitat-lab's ``Sim-v0`` with three additions:
the objects of the episode as kinematic rigid objects whose semantic ids are their instances; a camera that is not
observed but decides what is in view, as in :class:`~memo_lightning.envs.habitat.simulator.HouseSim`; and a navigation
mesh as fine as the lattice of generated houses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import habitat_sim
import magnum
import numpy as np
from habitat.config.default import get_agent_config
from habitat.core.registry import registry
from habitat.core.simulator import SensorSuite
from habitat.sims.habitat_simulator.habitat_simulator import HabitatSim
from omegaconf import DictConfig

from memo_lightning.envs.habitat.episodes import ExtObjNavEpisode
from memo_lightning.envs.habitat.scene_files.export import template_name
from memo_lightning.errors import UserError, require
from memo_lightning.houses import REFERENCE_CAMERA, Camera, Placement, Pose
from memo_lightning.houses.columns import Columns, columns_camera, columns_of
from memo_lightning.houses.placement import TYPE_NUMBERS, PlacedObject
from memo_lightning.houses.pose import heading_of
from memo_lightning.houses.ray_caster import FAR
from memo_lightning.houses.rules import MAX_PITCH

_REFERENCE, _COLUMNS, _FILM = "reference", "columns", "film"  # names of the cameras that are not observed
# Passages as wide as the agent stay open with cells of half a lattice square. The floor, and with it the eye, lies up
# to one cell's height too high.
_CELL_SIZE, _CELL_HEIGHT = 0.025, 0.01  # metres
_SNAP_DISTANCE = 0.5  # metres along any axis from an episode's start to the floor


@registry.register_simulator(name="ExtObjNavSim-v0")
class ExtObjNavSim(HabitatSim):
    """habitat-lab's simulator on habitat-sim, with the objects of a placement.

    Args:
        config: ``habitat.simulator`` of the configuration.

    Raises:
        UserError: if the scene dataset, a scene or an object's model is missing, or a simulator is already open in this
            process.
    """

    _initialized = False  # read on deletion, even if a scene is refused before habitat-sim sets it
    _is_open: ClassVar[bool] = False

    def __init__(self, config: DictConfig) -> None:
        if ExtObjNavSim._is_open:
            raise UserError(
                "habitat-sim is already open in this process, and several in one process abort when they close; "
                "close it first"
            )
        _check_scene(config.scene_dataset, config.scene)
        self._pitch = 0.0
        self._episode: ExtObjNavEpisode | None = None
        self._placement = Placement(config.scene, 0, ())
        self._object_ids: list[int] = []
        self._columns_camera = columns_camera(config.n_columns) if config.n_columns else None
        if config.additional_object_paths:
            folder = config.additional_object_paths[0]
            require(Path(folder).is_dir(), "env.object_folder", folder, "a folder with <type>.object_config.json files")
        super().__init__(config)
        ExtObjNavSim._is_open = True
        self._lay_out_navmesh()

    @property
    def placement(self) -> Placement:
        """The objects in the house."""
        return self._placement

    @property
    def pose(self) -> Pose:
        """The agent's pose with the camera's pitch."""
        state = self.get_agent_state()
        x, y, z = (float(value) for value in state.position)
        return Pose(x, y, z, heading_of(state.rotation.y, state.rotation.w), self._pitch)

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Close the simulator, so that another can be opened in this process."""
        if self._initialized:
            ExtObjNavSim._is_open = False
        super().close(*args, **kwargs)

    def create_sim_config(self, _sensor_suite: SensorSuite) -> habitat_sim.Configuration:
        """Add the cameras that are not observed."""
        config = super().create_sim_config(_sensor_suite)
        specifications = [_camera_spec(_REFERENCE, REFERENCE_CAMERA, habitat_sim.SensorType.SEMANTIC)]
        if self._columns_camera is not None:
            kinds = {"depth": habitat_sim.SensorType.DEPTH, "semantic": habitat_sim.SensorType.SEMANTIC}
            specifications += [
                _camera_spec(f"{_COLUMNS}_{name}", self._columns_camera, kind) for name, kind in kinds.items()
            ]
        config.agents[0].sensor_specifications = [*config.agents[0].sensor_specifications, *specifications]
        return config

    def _sanitize_config(self, config: habitat_sim.Configuration) -> None:
        """Load textures even if no sensor shows colours, for :meth:`look`."""
        super()._sanitize_config(config)
        config.sim_cfg.requires_textures = True

    def reconfigure(self, habitat_config: DictConfig, ep_info: ExtObjNavEpisode | None = None) -> None:
        """Load the house and objects of the next episode if they differ from those loaded."""
        is_new_scene = habitat_config.scene != self._current_scene
        if is_new_scene:
            _check_scene(habitat_config.scene_dataset, habitat_config.scene)
        self._episode = None  # or habitat-lab would put the agent there before there is a navigation mesh
        # Keep the rendering context: making a new one takes seconds.
        super().reconfigure(habitat_config, None, should_close_on_new_scene=False)
        if is_new_scene:
            self._object_ids = []  # they were removed with the scene
            self._placement = Placement(habitat_config.scene, 0, ())
            self._lay_out_navmesh()
        self._episode = ep_info
        if ep_info is not None and ep_info.placement is not self._placement:
            self._set_placement(ep_info.placement)

    def set_agent_state(self, *args: Any, reset_sensors: bool = True, **kwargs: Any) -> bool:
        """Move the agent, with its camera level again if ``reset_sensors``."""
        if reset_sensors:
            self._pitch = 0.0
        return super().set_agent_state(*args, reset_sensors=reset_sensors, **kwargs)

    def tilt_camera(self, degrees: float) -> None:
        """Tilt all cameras up, or down if ``degrees`` is negative, limited to :data:`MAX_PITCH`."""
        pitch = min(max(self._pitch + degrees, -MAX_PITCH), MAX_PITCH)
        turn = magnum.Quaternion.rotation(magnum.Deg(pitch - self._pitch), magnum.Vector3.x_axis())
        for sensor in self.agents[0].scene_node.subtree_sensors.values():
            sensor.node.rotation = sensor.node.rotation * turn
        self._pitch = pitch

    def look(self, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Return what a camera on the agent sees, whatever the agent's sensors are.

        The camera is added on first use, and renders at every step from then on.

        Returns:
            Colours uint8 ``[H, W, 3]``, and depth float32 ``[H, W]`` in metres.
        """
        kinds = {"rgb": habitat_sim.SensorType.COLOR, "depth": habitat_sim.SensorType.DEPTH}
        names = {kind: f"{_FILM}_{kind}_{camera.width}x{camera.height}" for kind in kinds}
        if names["rgb"] not in self._prev_sim_obs:
            turn = magnum.Quaternion.rotation(magnum.Deg(self._pitch), magnum.Vector3.x_axis())
            for kind, name in names.items():
                self.add_sensor(_camera_spec(name, camera, kinds[kind]), 0)
                node = self.agents[0].scene_node.subtree_sensors[name].node
                node.rotation = node.rotation * turn
            self._prev_sim_obs.update(self.get_sensor_observations())
        return self._prev_sim_obs[names["rgb"]][..., :3], self._prev_sim_obs[names["depth"]]

    def pixels_in_view(self, instance: int) -> int:
        """Return how many pixels of the reference camera show an object, whatever the agent's sensors are."""
        return int(np.count_nonzero(self._prev_sim_obs[_REFERENCE] == instance))

    def columns(self) -> Columns:
        """Return the column observation.

        Raises:
            UserError: if the configuration has no columns.
        """
        camera = self._columns_camera
        if camera is None:
            raise UserError("n_columns=0: must be at least 1 for this observation")
        depth, instances = (self._prev_sim_obs[f"{_COLUMNS}_{kind}"] for kind in ("depth", "semantic"))
        # habitat-sim reports 0 where nothing is in sight.
        depth = np.where(depth > 0, depth, np.float32(FAR))
        types = np.zeros(depth.shape, np.int32)
        for placed in self._placement.objects:
            types[instances == placed.instance] = TYPE_NUMBERS[placed.type]
        return columns_of(camera, self.pose, depth, types)

    def _update_agents_state(self) -> bool:
        """Put the agent at the episode's start, on the nearest floor, and the objects in their places.

        Raises:
            UserError: if the agent cannot stand there.
        """
        self._put_objects_in_place()
        if self._episode is None:
            return super()._update_agents_state()
        start = np.array(self._episode.start_position)
        floor = np.array(self.pathfinder.snap_point(start))
        # False, too, if there is no floor: the distance is NaN then.
        stands = bool(np.abs(floor - start).max() <= _SNAP_DISTANCE)
        require(stands, f"episode {self._episode.episode_id}: start", start.tolist(), "within 0.5 m of navigable floor")
        return self.set_agent_state(floor, self._episode.start_rotation)

    def _set_placement(self, placement: Placement) -> None:
        manager = self.get_rigid_object_manager()
        for object_id in self._object_ids:
            manager.remove_object_by_id(object_id)
        self._object_ids = [self._add(placed) for placed in placement.objects]
        self._placement = placement
        self._put_objects_in_place()

    def _put_objects_in_place(self) -> None:
        """Put the objects in their places, as each reset moves them to the origin."""
        manager = self.get_rigid_object_manager()
        for object_id, placed in zip(self._object_ids, self._placement.objects, strict=True):
            thing = manager.get_object_by_id(object_id)
            thing.translation = magnum.Vector3(*placed.position)
            thing.rotation = magnum.Quaternion.rotation(magnum.Deg(float(placed.yaw)), magnum.Vector3.y_axis())

    def _add(self, placed: PlacedObject) -> int:
        templates = self.get_object_template_manager()
        file = f"{template_name(placed.type)}.object_config.json"
        handles = [handle for handle in templates.get_template_handles(file) if Path(handle).name == file]
        if not handles:
            raise UserError(
                f"scene dataset {self.habitat_config.scene_dataset} has no {file}; set env.object_folder to a folder "
                f"that has it, e.g. the objects/ folder that memo export-houses writes"
            )
        # Without lights, like the house: the colours already include the light.
        thing = self.get_rigid_object_manager().add_object_by_template_handle(
            handles[0], light_setup_key=habitat_sim.gfx.NO_LIGHT_KEY
        )
        thing.motion_type = habitat_sim.physics.MotionType.KINEMATIC
        for node in thing.visual_scene_nodes:
            node.semantic_id = placed.instance
        return thing.object_id

    def _lay_out_navmesh(self) -> None:
        agent = get_agent_config(self.habitat_config)
        settings = habitat_sim.nav.NavMeshSettings()
        settings.set_defaults()
        settings.agent_radius, settings.agent_height = agent.radius, agent.height
        settings.agent_max_climb, settings.agent_max_slope = agent.max_climb, agent.max_slope
        settings.cell_size, settings.cell_height = _CELL_SIZE, _CELL_HEIGHT
        if not self.recompute_navmesh(self.pathfinder, settings):
            raise UserError(f"scene {self._current_scene!r}: its navigation mesh cannot be computed")


def _camera_spec(name: str, camera: Camera, kind: habitat_sim.SensorType) -> habitat_sim.CameraSensorSpec:
    spec = habitat_sim.CameraSensorSpec()
    spec.uuid, spec.sensor_type, spec.hfov = name, kind, camera.hfov
    spec.resolution = [camera.height, camera.width]
    spec.position = magnum.Vector3(0.0, camera.eye_height, 0.0)
    return spec


def _check_scene(scene_dataset: str, scene: str) -> None:
    """Raise :class:`UserError` if a scene is missing: habitat-sim would end the process."""
    found = next(Path(scene_dataset).parent.rglob(f"{Path(scene).name}*"), None)
    require(found is not None, "scene", scene, f"in the folder of {scene_dataset}")
