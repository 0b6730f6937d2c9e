"""Episodes of object navigation: which type of object to find, from where, in which house and placement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import attr
import numpy as np
from habitat.core.simulator import AgentState
from habitat.tasks.nav.object_nav_task import ObjectGoal, ObjectGoalNavEpisode, ObjectViewLocation

from memo_lightning.envs.habitat.navigation import build_navigator
from memo_lightning.envs.habitat.placement import PlacedObject, Placement, PlacementSpec
from memo_lightning.envs.habitat.placing import draw_placement
from memo_lightning.envs.habitat.pose import HEADINGS, Pose

MIN_START_DISTANCE = 3.0  # metres on foot to the nearest instance; an episode succeeds within 2
_TRIES = 200


@attr.s(auto_attribs=True, kw_only=True)
class ExtObjNavEpisode(ObjectGoalNavEpisode):
    """An episode of a trial.

    Args:
        placement: the objects of the house, the same for all episodes of a trial.
        origin_position: where the placement's first episode begins; positions are observed relative to it.
        origin_rotation: how the agent is turned there, as x, y, z, w.
    """

    placement: Placement
    origin_position: list[float]
    origin_rotation: list[float]


@dataclass(frozen=True)
class Start:
    """How an episode of a placement begins: x, z in metres, the heading in degrees, and the type to find.

    ``y`` is the height of the floor, 0 in generated houses.
    """

    x: float
    z: float
    heading: int
    goal: str
    y: float = 0.0

    @property
    def pose(self) -> Pose:
        """Where the agent is."""
        return Pose(self.x, self.y, self.z, self.heading)


def make_episode(
    placement: Placement, number: int, start: Start, origin: Start, scene_dataset: str = "default"
) -> ExtObjNavEpisode:
    """Return the habitat episode of ``placement`` that begins with ``start``; ``origin`` is the first one's.

    Raises:
        UserError: if the goal's type has no instance in the placement.
    """
    return ExtObjNavEpisode(  # type: ignore[call-arg]
        episode_id=f"{placement.scene_id}/{placement.index}/{number}",
        scene_id=placement.scene_id,
        scene_dataset_config=scene_dataset,
        start_position=[start.x, start.y, start.z],
        start_rotation=start.pose.rotation,
        goals=[_goal(placed) for placed in placement.instances(start.goal)],
        object_category=start.goal,
        placement=placement,
        origin_position=[origin.x, origin.y, origin.z],
        origin_rotation=origin.pose.rotation,
    )


@lru_cache(maxsize=512)
def cached_placement(spec: PlacementSpec) -> Placement:
    """Return the placement of ``spec``; those asked for most recently are kept."""
    return draw_placement(spec)


@lru_cache(maxsize=65536)  # trials of a placement have the same episodes, each of which asks for its trial's first
def draw_start(spec: PlacementSpec, number: int) -> Start:
    """Draw how episode ``number`` of a placement begins.

    The agent starts at least :data:`MIN_START_DISTANCE` from the goal; where a house is too small for that,
    as far away as was found.
    """
    placement, navigator = cached_placement(spec), build_navigator(spec.house)
    rng = np.random.default_rng([spec.house.seed, spec.index, spec.n_types, spec.n_objects, 1 + number])
    goal = placement.types[int(rng.integers(len(placement.types)))]
    field = navigator.field([placed.goal for placed in placement.instances(goal)])
    best, farthest = (0.0, 0.0), -1.0
    for _ in range(_TRIES):
        point = navigator.sample(rng)
        distance = field.distance(*point)
        if farthest < distance < math.inf:
            best, farthest = point, distance
        if farthest >= MIN_START_DISTANCE:
            break
    return Start(*best, HEADINGS[int(rng.integers(len(HEADINGS)))], goal)


def _goal(placed: PlacedObject) -> ObjectGoal:
    view = AgentState([placed.view.x, placed.view.y, placed.view.z], placed.view.rotation)
    return ObjectGoal(
        position=[placed.goal[0], placed.floor, placed.goal[1]],
        object_id=str(placed.instance),
        object_name=f"{placed.type} {placed.instance}",
        object_name_id=placed.instance,
        object_category=placed.type,
        room_id=str(placed.room),
        view_points=[ObjectViewLocation(agent_state=view, iou=None)],
    )
