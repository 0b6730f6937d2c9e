"""The batched engine for trials of object navigation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memo_lightning.errors import UserError, require
from memo_lightning.houses.batch.agents import Agents, make_agents
from memo_lightning.houses.batch.cameras import PITCHES, lens_of
from memo_lightning.houses.batch.observing import facings, rotations, write_columns, write_images, write_positions
from memo_lightning.houses.batch.scenes import ScenePool
from memo_lightning.houses.batch.stepping import start_episodes, step_agents
from memo_lightning.houses.batch.threads import Threads
from memo_lightning.houses.camera import REFERENCE_CAMERA, Camera
from memo_lightning.houses.house import HouseSpec, build_house
from memo_lightning.houses.navigation import Navigator, build_navigator
from memo_lightning.houses.object_types import OBJECT_TYPES
from memo_lightning.houses.placement import TYPE_NUMBERS, Placement
from memo_lightning.houses.pose import HEADINGS, Pose
from memo_lightning.houses.shapes import concatenate
from memo_lightning.houses.sources import Source
from memo_lightning.houses.starts import Start
from memo_lightning.houses.view import View

_FLOOR_TOLERANCE = 0.5  # metres that a start may be above or below the floor


class BatchedTrials:
    """N environments, each with an agent in its own trial.

    A trial is a placement of a :class:`~memo_lightning.houses.sources.Source` with its sequence of episodes. The caller
    decides when trials and episodes begin. Results do not depend on ``n_threads``, and environments do not affect one
    another.

    Args:
        source: source of placements and their episodes.
        n_rows: number of environments N.
        episode_steps: number of steps after which an episode ends.
        sensors: observations in addition to goal and position: ``rgb``, ``depth``, ``columns``.
        image: camera of the images.
        columns: camera from which the columns are computed.
        in_house: whether positions are in house coordinates instead of relative to the start of the trial.
        n_threads: number of threads.

    Attributes:
        agents: state of the agents and their episodes.
        observations: current observations, ``[N, ...]`` by name; written in place by :meth:`observe`.
    """

    def __init__(
        self,
        source: Source,
        n_rows: int,
        episode_steps: int,
        sensors: Sequence[str],
        image: Camera = REFERENCE_CAMERA,
        columns: Camera = REFERENCE_CAMERA,
        in_house: bool = False,
        n_threads: int = 1,
    ) -> None:
        require(n_rows >= 1, "n_rows", n_rows, "at least 1")
        self._source, self._in_house = source, in_house
        self._threads = Threads(n_threads)
        self._scenes = ScenePool(source, n_rows, self._threads)
        self._facing, self._rotation = facings(), rotations()
        self._reference, self._image, self._columns = (lens_of(camera) for camera in (REFERENCE_CAMERA, image, columns))
        self._sensors = frozenset(sensors)
        self._index, self._episode = np.full(n_rows, -1), np.full(n_rows, -1)
        self.agents: Agents = make_agents(n_rows, episode_steps)
        self.observations = {
            "goal": np.zeros((n_rows, len(OBJECT_TYPES)), np.float32),
            "position": np.zeros((n_rows, 4), np.float32),
        }
        self._make_images(n_rows, image, columns)

    def begin_trials(self, rows: np.ndarray, placements: Sequence[int]) -> None:
        """Begin a trial, at its first episode, in each of the environments ``rows``.

        ``placements`` holds the index in the source of each environment's placement.
        """
        for row in rows[self._index[rows] >= 0]:
            self._scenes.give_back(int(self.agents.place[row]))
        self.agents.place[rows] = self._scenes.take(placements)
        self._index[rows], self._episode[rows] = placements, -1
        origins = [self._source.start(index, 0) for index in placements]
        self.agents.origin[rows] = [(start.x, start.y, start.z) for start in origins]
        self.agents.origin_turn[rows] = [HEADINGS.index(start.heading) for start in origins]
        self.begin_episodes(rows)

    def begin_episodes(self, rows: np.ndarray) -> None:
        """Begin the next episode of the trial in each of the environments ``rows``.

        Raises:
            UserError: if the agent cannot stand at a start or cannot reach a goal from it.
        """
        if not len(rows):
            return
        self._episode[rows] += 1
        starts = [self._source.start(int(self._index[row]), int(self._episode[row])) for row in rows]
        for row, start in zip(rows, starts, strict=True):
            self._check_start(row, start)
        positions = np.array([(start.x, start.y, start.z) for start in starts])
        turns = np.array([HEADINGS.index(start.heading) for start in starts])
        goals = np.array([TYPE_NUMBERS[start.goal] - 1 for start in starts])
        start_episodes(self.agents, self._scenes.arrays, rows, positions, turns, goals)
        for row in rows[~np.isfinite(self.agents.distance[rows])]:
            placement = self.placement(row)
            name = f"{placement.scene_id}/{placement.index}/{self._episode[row]}"
            raise UserError(f"episode {name}: {self.goal(row)!r} cannot be reached from its start")

    def step(self, actions: np.ndarray) -> None:
        """Step every environment; ``actions``, int64 ``[N]``, are habitat's: 0 is stop, 1 is forward."""
        self._threads.run(step_agents, self.agents, self._scenes.arrays, self._reference, actions)

    def observe(self) -> None:
        """Write the current observations of all agents."""
        seen, scenes = self.observations, self._scenes.arrays
        seen["goal"][:] = 0.0
        np.put_along_axis(seen["goal"], self.agents.goal[:, None], 1.0, axis=1)
        write_positions(self.agents, self._facing, self._rotation, self._in_house, seen["position"], 0, 1)
        if "column_range" in seen:
            ranges, types = seen["column_range"], seen["column_type"]
            self._threads.run(write_columns, self.agents, scenes, self._columns, ranges, types)
        if "rgb" in seen or "depth" in seen:
            rgb, depth = seen.get("rgb", self._no_rgb), seen.get("depth", self._no_depth)
            self._threads.run(
                write_images, self.agents, scenes, self._image, "rgb" in seen, rgb, "depth" in seen, depth
            )

    def placement(self, row: int) -> Placement:
        """Return the placement of an environment's trial."""
        return self._scenes.placement(int(self.agents.place[row]))

    def navigator(self, row: int) -> Navigator:
        """Return the navigator of an environment's house."""
        return build_navigator(HouseSpec.from_scene_id(self.placement(row).scene_id))

    def goal(self, row: int) -> str:
        """Return the name of the object type that an environment's agent has to find."""
        return OBJECT_TYPES[self.agents.goal[row]].name

    def pose(self, row: int) -> Pose:
        """Return the pose of an environment's agent."""
        agents = self.agents
        x, y, z = agents.position[row].tolist()
        return Pose(x, y, z, float(HEADINGS[agents.turn[row]]), float(PITCHES[agents.tilt[row]]))

    def view(self, row: int) -> View:
        """Return the view of an environment's agent, for use with any camera."""
        placement = self.placement(row)
        house = build_house(HouseSpec.from_scene_id(placement.scene_id))
        return View(self.pose(row), concatenate(house.arrays, placement.arrays))

    def path(self, row: int) -> np.ndarray:
        """Return the path (x, z) of an environment's agent in this episode, float64 ``[steps + 1, 2]``."""
        return self.agents.path[row, : self.agents.elapsed[row] + 1]

    def episode(self, row: int) -> int:
        """Return the number of an environment's episode in its trial, from 0."""
        return int(self._episode[row])

    def _make_images(self, n_rows: int, image: Camera, columns: Camera) -> None:
        self._no_rgb, self._no_depth = np.zeros((0, 0, 0, 3), np.uint8), np.zeros((0, 0, 0, 1), np.float32)
        size = n_rows, image.height, image.width
        if "rgb" in self._sensors:
            self.observations["rgb"] = np.zeros((*size, 3), np.uint8)
        if "depth" in self._sensors:
            self.observations["depth"] = np.zeros((*size, 1), np.float32)
        if "columns" in self._sensors:
            self.observations["column_range"] = np.zeros((n_rows, columns.width, 2), np.float32)
            self.observations["column_type"] = np.zeros((n_rows, columns.width), np.int64)

    def _check_start(self, row: int, start: Start) -> None:
        navigator = self.navigator(row)
        stands = abs(start.y) <= _FLOOR_TOLERANCE and navigator.is_free(start.x, start.z)
        scene = self.placement(row).scene_id
        require(stands, "start_position", [start.x, start.y, start.z], f"a navigable point of {scene}")
