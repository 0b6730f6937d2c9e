"""Placing objects on the furniture and floor of a house, and verifying that each can be found.

An object can be found if a rendered image from some nearby pose shows it, and its goal is within
:data:`~memo_lightning.houses.placement.REACH` of that pose. Objects that fail are rejected, counted and placed
elsewhere.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from memo_lightning.errors import UserError
from memo_lightning.houses.camera import REFERENCE_CAMERA
from memo_lightning.houses.floor_plan import WALL, Rect
from memo_lightning.houses.furnishing import Stand
from memo_lightning.houses.house import House, build_house
from memo_lightning.houses.navigation import Navigator, build_navigator
from memo_lightning.houses.object_types import MAX_HEIGHT, OBJECT_TYPES, ObjectType
from memo_lightning.houses.placement import REACH, PlacedObject, Placement, PlacementSpec, arrays_of
from memo_lightning.houses.pose import look_at
from memo_lightning.houses.shapes import SolidArrays, concatenate
from memo_lightning.houses.view import View

_SEEN_PIXELS = 24  # in the reference camera; an episode succeeds with 10
_ON_THE_FLOOR_PERCENT = 25
_GAP = 2  # centimetres between objects
_TRIES = 500  # to find a place on furniture, and as many on the floor
_MOST_REJECTED = 2000
_ATTEMPTS = 10


def draw_placement(spec: PlacementSpec) -> Placement:
    """Draw the placement for ``spec``; the result is the same on every machine.

    In a small house the first objects may leave no room for the others. The placement is then drawn anew.

    Raises:
        UserError: if the house has no room for that many objects, or too few places where they can be found.
    """
    for attempt in range(_ATTEMPTS):
        with suppress(_NoRoomError):
            return _draw(spec, attempt)
    raise UserError(
        f"n_objects={spec.n_objects}: must be lower, or min_rooms higher, as {spec.house.scene_id} has too few places"
    )


class _NoRoomError(Exception):
    """There is no place left for an object."""


def _draw(spec: PlacementSpec, attempt: int) -> Placement:
    """Draw a placement; every attempt draws other places.

    Raises:
        _NoRoomError: if an object finds no place where it can be seen.
    """
    house, navigator = build_house(spec.house), build_navigator(spec.house)
    seeds = [spec.house.seed, spec.index, spec.n_types, spec.n_objects]
    rng = np.random.default_rng([*seeds, attempt] if attempt else seeds)
    extra = rng.integers(spec.n_types, size=spec.n_objects - spec.n_types)
    types = [OBJECT_TYPES[i] for i in (*range(spec.n_types), *extra)]
    instances = range(1, len(types) + 1)

    layout = _Layout(rng, house)
    places = [layout.draw(object_type) for object_type in types]
    n_rejected = 0
    # Moving one object can hide another, so all are checked again until none has to move.
    while True:
        objects = arrays_of(
            [(object_type.name, place.position, place.yaw) for object_type, place in zip(types, places, strict=True)],
            instances,
        )
        scene = concatenate(house.arrays, objects)
        found = [_find(house, navigator, scene, *item) for item in zip(instances, types, places, strict=True)]
        hidden = [k for k, placed in enumerate(found) if placed is None]
        if not hidden:
            kept = tuple(placed for placed in found if placed is not None)
            return Placement(spec.house.scene_id, spec.index, kept, n_rejected)
        n_rejected += len(hidden)
        if n_rejected > _MOST_REJECTED:
            raise _NoRoomError
        for k in hidden:
            layout.remove(places[k])
            places[k] = layout.draw(types[k])


@dataclass(frozen=True)
class _Place:
    """Where an object stands: on ``stand`` or, if that is None, on the floor; the radius is in centimetres."""

    position: tuple[float, float, float]
    yaw: int
    room: int
    radius: int
    stand: Stand | None


def _find(
    house: House,
    navigator: Navigator,
    scene: SolidArrays,
    instance: int,
    object_type: ObjectType,
    place: _Place,
) -> PlacedObject | None:
    """Return the object with its goal and a pose that sees it, or None if no pose within reach does."""
    x, y, z = place.position
    points = house.roomy_points(place.room)
    distances = np.sqrt(((points - (x, z)) ** 2).sum(axis=1))
    goal_x, goal_z = (float(value) for value in points[int(distances.argmin())])
    field = navigator.field([(goal_x, goal_z)])
    target = (x, y + MAX_HEIGHT / 3, z)
    # Points about a metre away come first; every twelfth is enough.
    for index in _smallest(np.abs(distances - 1.0), 600)[::12]:
        at_x, at_z = (float(value) for value in points[index])
        if not 0.4 < distances[index] < 1.7 or field.distance(at_x, at_z) > REACH:
            continue
        pose = look_at(at_x, at_z, target, REFERENCE_CAMERA.eye_height)
        if View(pose, scene).count_pixels(REFERENCE_CAMERA, instance) >= _SEEN_PIXELS:
            goal = (goal_x, goal_z)
            return PlacedObject(instance, object_type.name, place.position, place.yaw, place.room, goal, pose)
    return None


def _smallest(values: np.ndarray, n: int) -> np.ndarray:
    """Return the indices of at most ``n`` smallest values, in ascending order of value; ties keep their order."""
    among = np.arange(len(values))
    if len(values) > n:
        among = np.flatnonzero(values <= np.partition(values, n - 1)[n - 1])
    return among[values[among].argsort(kind="stable")][:n]


class _Layout:
    """Sampler of places where objects neither overlap nor overhang an edge; lengths are in centimetres."""

    def __init__(self, rng: np.random.Generator, house: House) -> None:
        self._rng = rng
        self._house = house
        self._taken: list[_Place] = []
        self._footprints = [piece.footprint for piece in house.pieces]
        self._doors = [door.opening.grown(60) for door in house.plan.doors]

    def draw(self, object_type: ObjectType) -> _Place:
        """Draw a place and reserve it.

        Raises:
            _NoRoomError: if no free place is found.
        """
        radius = math.ceil(object_type.radius * 100 - 1e-6)
        kinds = [self._draw_on_stand, self._draw_on_floor]
        if int(self._rng.integers(100)) < _ON_THE_FLOOR_PERCENT:
            kinds.reverse()
        for draw in kinds:
            for _ in range(_TRIES):
                place = draw(radius)
                if place is not None and not any(_touch(place, other) for other in self._taken):
                    self._taken.append(place)
                    return place
        raise _NoRoomError

    def remove(self, place: _Place) -> None:
        """Release a place."""
        self._taken.remove(place)

    def _draw_on_stand(self, radius: int) -> _Place | None:
        if not self._house.stands:
            return None
        stand = self._house.stands[int(self._rng.integers(len(self._house.stands)))]
        inner = stand.area.grown(-radius)
        if inner.width < 0 or inner.depth < 0 or stand.clearance < 100 * MAX_HEIGHT:
            return None
        x = inner.x0 + int(self._rng.integers(inner.width + 1))
        z = inner.z0 + int(self._rng.integers(inner.depth + 1))
        return self._place(x, stand.height, z, stand.room, radius, stand)

    def _draw_on_floor(self, radius: int) -> _Place | None:
        """Draw a place along a wall, out of the agent's way, or return None if it is not free."""
        room = int(self._rng.integers(len(self._house.plan.rooms)))
        inner = self._house.plan.rooms[room].grown(-WALL - radius - 1)
        x = inner.x0 + int(self._rng.integers(inner.width + 1))
        z = inner.z0 + int(self._rng.integers(inner.depth + 1))
        side = int(self._rng.integers(4))
        x, z = ((inner.x0, z), (inner.x1, z), (x, inner.z0), (x, inner.z1))[side]
        area = Rect(x - radius, z - radius, x + radius, z + radius)
        if any(area.overlaps(other) for other in (*self._footprints, *self._doors)):
            return None
        return self._place(x, 0, z, room, radius, None)

    def _place(self, x: int, y: int, z: int, room: int, radius: int, stand: Stand | None) -> _Place:
        yaw = 15 * int(self._rng.integers(24))
        return _Place((x / 100, y / 100, z / 100), yaw, room, radius, stand)


def _touch(a: _Place, b: _Place) -> bool:
    if a.stand is not b.stand or a.room != b.room:
        return False
    dx, dz = a.position[0] - b.position[0], a.position[2] - b.position[2]
    return 10_000 * (dx * dx + dz * dz) < (a.radius + b.radius + _GAP) ** 2
