"""Placements: objects put on the furniture and the floor of a house, and the proof that each can be found.

A goal counts as reachable if a spot was found from where the object is really seen: the picture there is
rendered, and the spot is within reach of the object on foot. Objects that fail are rejected, counted and put
somewhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from memo_lightning.envs.habitat.camera import Camera, Pose
from memo_lightning.envs.habitat.floor_plan import WALL, Rect
from memo_lightning.envs.habitat.house import House, HouseSpec, Stand, build_house
from memo_lightning.envs.habitat.navigation import Navigator
from memo_lightning.envs.habitat.object_types import MAX_HEIGHT, OBJECT_TYPES, ObjectType
from memo_lightning.envs.habitat.ray_caster import cast
from memo_lightning.envs.habitat.shapes import SolidArrays, concatenate, pack, turn
from memo_lightning.errors import UserError, require

REFERENCE_CAMERA = Camera(width=64, height=64, hfov=79.0, eye_height=0.88)
HEADINGS = tuple(range(0, 360, 30))
PITCHES = (-30, 0, 30)
REACH = 1.6  # metres on foot from where an object is seen to its goal; an episode succeeds within 2
_SEEN_PIXELS = 24  # in the reference camera; an episode succeeds with 10
_ON_THE_FLOOR_PERCENT = 25
_GAP = 2  # centimetres between objects
_TYPES = {object_type.name: object_type for object_type in OBJECT_TYPES}


@dataclass(frozen=True)
class Spot:
    """Where an agent stands and looks: x, z in metres, heading and pitch in degrees."""

    x: float
    z: float
    heading: int
    pitch: int

    @property
    def pose(self) -> Pose:
        """The same as a pose on the floor."""
        return Pose(self.x, 0.0, self.z, *turn(self.heading), self.pitch)


@dataclass(frozen=True)
class PlacedObject:
    """One object in a house.

    Args:
        instance: its semantic id, from 1.
        type: name of its :class:`~memo_lightning.envs.habitat.object_types.ObjectType`.
        position: x, y, z of the middle of its bottom, metres.
        yaw: turn about the vertical axis, degrees.
        room: index of the room it is in.
        goal: x, z of the point of the room nearest to it where an agent can stand; distances go there.
        view: a spot within :data:`REACH` of the goal from where it is seen.
    """

    instance: int
    type: str
    position: tuple[float, float, float]
    yaw: int
    room: int
    goal: tuple[float, float]
    view: Spot


@dataclass(frozen=True)
class PlacementSpec:
    """What a placement is generated from.

    Args:
        house: the house.
        index: number of the placement in this house; it seeds everything random.
        n_types: the first so many of the object types are used.
        n_objects: objects in the house; every type comes at least once.

    Raises:
        UserError: if a number is out of range.
    """

    house: HouseSpec
    index: int
    n_types: int = 20
    n_objects: int = 30

    def __post_init__(self) -> None:
        require(self.index >= 0, "placement index", self.index, "at least 0")
        require(1 <= self.n_types <= len(OBJECT_TYPES), "n_types", self.n_types, f"1 to {len(OBJECT_TYPES)}")
        allowed = f"at least n_types={self.n_types} and at most 100"
        require(self.n_types <= self.n_objects <= 100, "n_objects", self.n_objects, allowed)


@dataclass(frozen=True)
class Placement:
    """Objects in a house.

    Args:
        scene_id: names the house.
        index: number of the placement in this house.
        objects: the objects, by instance.
        n_rejected: objects that were rejected on the way because they could not be found.
    """

    scene_id: str
    index: int
    objects: tuple[PlacedObject, ...]
    n_rejected: int = 0

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Names of the types that have an instance, sorted."""
        return tuple(sorted({placed.type for placed in self.objects}))

    @cached_property
    def arrays(self) -> SolidArrays:
        """The objects' solids for the ray caster."""
        solids, instances = [], []
        for placed in self.objects:
            cos_yaw, sin_yaw = turn(placed.yaw)
            for solid in _TYPES[placed.type].solids:
                solids.append(solid.placed(placed.position, cos_yaw, sin_yaw))
                instances.append(placed.instance)
        return pack(solids, instances)

    @cached_property
    def type_of_instance(self) -> np.ndarray:
        """int64: for every instance, and 0 for no object, the number of its type from 1, or 0."""
        numbers = {object_type.name: number for number, object_type in enumerate(OBJECT_TYPES, start=1)}
        table = np.zeros(1 + max((placed.instance for placed in self.objects), default=0), np.int64)
        for placed in self.objects:
            table[placed.instance] = numbers[placed.type]
        return table

    def instances(self, object_type: str) -> list[PlacedObject]:
        """Return the objects of one type.

        Raises:
            UserError: if there is none.
        """
        found = [placed for placed in self.objects if placed.type == object_type]
        if not found:
            raise UserError(
                f"object type {object_type!r} has no instance in placement {self.index} of {self.scene_id}: "
                f"must be one of {', '.join(self.types)}"
            )
        return found


@lru_cache(maxsize=64)
def build_navigator(spec: HouseSpec) -> Navigator:
    """Return the navigator of a generated house; those asked for most recently are kept."""
    return Navigator(build_house(spec))


def draw_placement(spec: PlacementSpec) -> Placement:
    """Draw the placement that ``spec`` describes; the same on every machine.

    Raises:
        UserError: if the house has no room for so many objects.
    """
    house, navigator = build_house(spec.house), build_navigator(spec.house)
    rng = np.random.default_rng([spec.house.seed, spec.index, spec.n_types, spec.n_objects])
    extra = rng.integers(spec.n_types, size=spec.n_objects - spec.n_types)
    types = [OBJECT_TYPES[i] for i in (*range(spec.n_types), *extra)]

    layout = _Layout(rng, house)
    spots = [layout.draw(object_type) for object_type in types]
    found: list[PlacedObject | None] = [None] * len(types)
    n_rejected = 0
    # Moving one object can hide another, so all are looked at again until nothing has moved.
    while True:
        objects = [
            PlacedObject(k + 1, t.name, s.position, s.yaw, s.room, (0.0, 0.0), Spot(0.0, 0.0, 0, 0))
            for k, (t, s) in enumerate(zip(types, spots, strict=True))
        ]
        scene = concatenate(house.arrays, Placement(spec.house.scene_id, spec.index, tuple(objects)).arrays)
        found = [_find(house, navigator, scene, placed) for placed in objects]
        hidden = [k for k, placed in enumerate(found) if placed is None]
        if not hidden:
            break
        n_rejected += len(hidden)
        for k in hidden:
            layout.remove(spots[k])
            spots[k] = layout.draw(types[k])
    kept = tuple(placed for placed in found if placed is not None)
    return Placement(spec.house.scene_id, spec.index, kept, n_rejected)


def _count_pixels(pose: Pose, scene: SolidArrays, instance: int) -> int:
    """Return how many pixels of the reference camera show an instance."""
    solid = cast(REFERENCE_CAMERA, pose, scene)[1]
    return int(np.count_nonzero(scene.instance[solid] == instance))


def look_at(x: float, z: float, target: tuple[float, float, float]) -> tuple[int, int]:
    """Return the heading and pitch, of those an agent can take, that bring a target nearest to the middle."""
    dx, dy, dz = target[0] - x, target[1] - REFERENCE_CAMERA.eye_height, target[2] - z
    # Comparing products, not angles: they are the same on every machine.
    heading = max(HEADINGS, key=lambda degrees: -turn(degrees)[1] * dx - turn(degrees)[0] * dz)
    across = (dx * dx + dz * dz) ** 0.5
    pitch = max(PITCHES, key=lambda degrees: turn(degrees)[0] * across + turn(degrees)[1] * dy)
    return heading, pitch


def _find(
    house: House, navigator: Navigator, scene: SolidArrays, placed: PlacedObject
) -> PlacedObject | None:
    """Return the object with its goal and a spot from where it is seen, or None if it is out of reach."""
    x, y, z = placed.position
    points = house.free_points(placed.room)
    distances = ((points - (x, z)) ** 2).sum(axis=1)
    goal_x, goal_z = (float(value) for value in points[int(distances.argmin())])
    field = navigator.field([(goal_x, goal_z)])
    target = (x, y + MAX_HEIGHT / 3, z)
    # From about a metre away first; every few of the nearby points are enough.
    for index in np.abs(distances - 1.0).argsort(kind="stable")[:600:12]:
        at_x, at_z = (float(value) for value in points[index])
        if not 0.2 < distances[index] < 3.0 or field.distance(at_x, at_z) > REACH:
            continue
        spot = Spot(at_x, at_z, *look_at(at_x, at_z, target))
        if _count_pixels(spot.pose, scene, placed.instance) >= _SEEN_PIXELS:
            return PlacedObject(
                placed.instance, placed.type, placed.position, placed.yaw, placed.room, (goal_x, goal_z), spot
            )
    return None


@dataclass(frozen=True)
class _Spot:
    """Where an object stands; ``stand`` tells which surface, None the floor."""

    position: tuple[float, float, float]
    yaw: int
    room: int
    radius: int
    stand: Stand | None


class _Layout:
    """Draws places for objects that neither overlap nor hang over an edge; centimetres."""

    def __init__(self, rng: np.random.Generator, house: House) -> None:
        self._rng = rng
        self._house = house
        self._taken: list[_Spot] = []
        self._footprints = [piece.footprint for piece in house.pieces]
        self._doors = [door.opening.grown(60) for door in house.plan.doors]

    def draw(self, object_type: ObjectType) -> _Spot:
        """Draw a place and take it.

        Raises:
            UserError: if none is found.
        """
        radius = int(np.ceil(object_type.radius * 100 - 1e-6))
        for _ in range(2000):
            on_floor = not self._house.stands or int(self._rng.integers(100)) < _ON_THE_FLOOR_PERCENT
            spot = self._draw_on_floor(radius) if on_floor else self._draw_on_stand(radius)
            if spot is not None and not any(_touch(spot, other) for other in self._taken):
                self._taken.append(spot)
                return spot
        raise UserError(
            f"n_objects is too large: {self._house.spec.scene_id} has no room for more than "
            f"{len(self._taken)} objects"
        )

    def remove(self, spot: _Spot) -> None:
        """Give a place back."""
        self._taken.remove(spot)

    def _draw_on_stand(self, radius: int) -> _Spot | None:
        stand = self._house.stands[int(self._rng.integers(len(self._house.stands)))]
        inner = stand.area.grown(-radius)
        if inner.width < 0 or inner.depth < 0 or stand.clearance < 100 * MAX_HEIGHT:
            return None
        x = inner.x0 + int(self._rng.integers(inner.width + 1))
        z = inner.z0 + int(self._rng.integers(inner.depth + 1))
        return self._spot(x, stand.height, z, stand.room, radius, stand)

    def _draw_on_floor(self, radius: int) -> _Spot | None:
        """Draw a place along a wall, where the agent does not walk into it."""
        room = int(self._rng.integers(len(self._house.plan.rooms)))
        inner = self._house.plan.rooms[room].grown(-WALL - radius - 1)
        x = inner.x0 + int(self._rng.integers(inner.width + 1))
        z = inner.z0 + int(self._rng.integers(inner.depth + 1))
        side = int(self._rng.integers(4))
        x, z = ((inner.x0, z), (inner.x1, z), (x, inner.z0), (x, inner.z1))[side]
        area = Rect(x - radius, z - radius, x + radius, z + radius)
        if any(area.overlaps(other) for other in (*self._footprints, *self._doors)):
            return None
        return self._spot(x, 0, z, room, radius, None)

    def _spot(self, x: int, y: int, z: int, room: int, radius: int, stand: Stand | None) -> _Spot:
        yaw = 15 * int(self._rng.integers(24))
        return _Spot((x / 100, y / 100, z / 100), yaw, room, radius, stand)


def _touch(a: _Spot, b: _Spot) -> bool:
    if a.stand is not b.stand or a.room != b.room:
        return False
    dx, dz = a.position[0] - b.position[0], a.position[2] - b.position[2]
    return 10_000 * (dx * dx + dz * dz) < (a.radius + b.radius + _GAP) ** 2
