"""Where the episodes of a placement begin, and which type of object each asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from memo_lightning.houses.navigation import DistanceField, build_navigator
from memo_lightning.houses.placement import Placement, PlacementSpec
from memo_lightning.houses.placing import draw_placement
from memo_lightning.houses.pose import HEADINGS, Pose

MIN_START_DISTANCE = 3.0  # metres on foot to the nearest instance; an episode succeeds within 2
_TRIES = 200


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


@lru_cache(maxsize=512)
def cached_placement(spec: PlacementSpec) -> Placement:
    """Return the placement of ``spec``; those asked for most recently are kept."""
    return draw_placement(spec)


@lru_cache(maxsize=4096)
def _field(spec: PlacementSpec, goal: str) -> DistanceField:
    """Return the distances to the nearest instance of a type; its episodes in a trial share them."""
    instances = cached_placement(spec).instances(goal)
    return build_navigator(spec.house).field([placed.goal for placed in instances])


@lru_cache(maxsize=65536)  # trials of a placement have the same episodes, each of which asks for its trial's first
def draw_start(spec: PlacementSpec, number: int) -> Start:
    """Draw how episode ``number`` of a placement begins.

    The agent starts at least :data:`MIN_START_DISTANCE` from the goal; where a house is too small for that,
    as far away as was found.
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
