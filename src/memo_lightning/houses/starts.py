"""Episode starts: where each episode of a placement begins, and which object type it asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from memo_lightning.houses.navigation import DistanceField, build_navigator
from memo_lightning.houses.placement import Placement, PlacementSpec
from memo_lightning.houses.placing import draw_placement
from memo_lightning.houses.pose import HEADINGS, Pose

MIN_START_DISTANCE = 3.0  # metres, geodesic, to the nearest instance; an episode succeeds within 2
_TRIES = 200


@dataclass(frozen=True)
class Start:
    """The start of an episode: x and z in metres, the heading in degrees, and the object type to find.

    ``y`` is the height of the floor, 0 in generated houses.
    """

    x: float
    z: float
    heading: int
    goal: str
    y: float = 0.0

    @property
    def pose(self) -> Pose:
        """The pose of the agent at the start."""
        return Pose(self.x, self.y, self.z, self.heading)


@lru_cache(maxsize=512)
def cached_placement(spec: PlacementSpec) -> Placement:
    """Return the placement for ``spec``; recently used placements are cached."""
    return draw_placement(spec)


@lru_cache(maxsize=4096)
def _field(spec: PlacementSpec, goal: str) -> DistanceField:
    """Return the distances to the nearest instance of a type, cached because many episodes share a goal type."""
    instances = cached_placement(spec).instances(goal)
    return build_navigator(spec.house).field([placed.goal for placed in instances])


@lru_cache(maxsize=65536)  # trials of a placement share episodes, and each episode looks up the first
def draw_start(spec: PlacementSpec, number: int) -> Start:
    """Draw the start of episode ``number`` of a placement.

    The agent starts at least :data:`MIN_START_DISTANCE` from the goal or, if the house is too small for that, at the
    farthest point that was sampled.
    """
    placement, navigator = cached_placement(spec), build_navigator(spec.house)
    rng = np.random.default_rng([spec.house.seed, spec.index, spec.n_types, spec.n_objects, 1 + number])
    goal = placement.types[int(rng.integers(len(placement.types)))]
    field = _field(spec, goal)
    best, farthest = (0.0, 0.0), -1.0
    for _ in range(_TRIES):
        point = navigator.sample(rng)
        distance = field.distance(*point)
        if farthest < distance < math.inf:
            best, farthest = point, distance
        if farthest >= MIN_START_DISTANCE:
            break
    return Start(*best, HEADINGS[int(rng.integers(len(HEADINGS)))], goal)
