"""Floor plans: a rectangle divided into rooms, and the doors that connect them.

All lengths are integer centimetres and multiples of :data:`LATTICE`, so that rounding cannot make different squares of
the floor free on different machines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LATTICE = 5
WALL = 10  # each room has its own layer, so a wall between two rooms is twice as thick
DOOR_WIDTH = 100
ROOM_AREA = 150_000  # of the average room, square centimetres
MIN_ROOM_SIDE = 240
_EXTRA_DOOR_PERCENT = 40  # chance of a door between neighbouring rooms that are already connected


@dataclass(frozen=True)
class Rect:
    """An axis-aligned rectangle on the floor, in centimetres; x points right, z towards the viewer."""

    x0: int
    z0: int
    x1: int
    z1: int

    @property
    def width(self) -> int:
        """Extent along x."""
        return self.x1 - self.x0

    @property
    def depth(self) -> int:
        """Extent along z."""
        return self.z1 - self.z0

    def grown(self, by: int) -> Rect:
        """Return the rectangle with every side moved outwards by ``by``, or inwards if it is negative."""
        return Rect(self.x0 - by, self.z0 - by, self.x1 + by, self.z1 + by)

    def overlaps(self, other: Rect) -> bool:
        """Return whether the two share more than a border."""
        return self.x0 < other.x1 and other.x0 < self.x1 and self.z0 < other.z1 and other.z0 < self.z1

    def contains(self, other: Rect) -> bool:
        """Return whether ``other`` lies within this rectangle; borders may touch."""
        return self.x0 <= other.x0 and self.z0 <= other.z0 and other.x1 <= self.x1 and other.z1 <= self.z1


@dataclass(frozen=True)
class Door:
    """An opening between two rooms.

    Args:
        rooms: indices of the two rooms.
        opening: the gap in the wall, as wide as the door and as deep as both wall layers.
    """

    rooms: tuple[int, int]
    opening: Rect


@dataclass(frozen=True)
class FloorPlan:
    """Rooms and doors of one house.

    Args:
        rooms: the rooms including their wall layers; they tile the rectangle of the house.
        doors: the openings; every room can be reached from every other.
    """

    rooms: tuple[Rect, ...]
    doors: tuple[Door, ...]

    @property
    def bounds(self) -> Rect:
        """The rectangle of the house, outer walls included."""
        return Rect(
            min(room.x0 for room in self.rooms),
            min(room.z0 for room in self.rooms),
            max(room.x1 for room in self.rooms),
            max(room.z1 for room in self.rooms),
        )


def draw_floor_plan(rng: np.random.Generator, n_rooms: int) -> FloorPlan:
    """Draw a floor plan of ``n_rooms`` connected rooms."""
    while True:
        rooms = _cut_rooms(rng, n_rooms)
        doors = _draw_doors(rng, rooms) if rooms else None
        if doors is not None:
            return FloorPlan(tuple(rooms), tuple(doors))


def _cut_rooms(rng: np.random.Generator, n_rooms: int) -> list[Rect]:
    """Cut a rectangle into ``n_rooms`` rooms, or return an empty list if one would be too narrow."""
    area = n_rooms * ROOM_AREA
    width = math.isqrt(area * int(rng.integers(90, 160)) // 100)
    width = max(_on_lattice(width), MIN_ROOM_SIDE)
    rooms = [Rect(0, 0, width, max(_on_lattice(area // width), MIN_ROOM_SIDE))]
    while len(rooms) < n_rooms:
        rooms.sort(key=lambda room: room.width * room.depth)
        room = rooms.pop()
        side = max(room.width, room.depth)
        if side < 2 * MIN_ROOM_SIDE:
            return []
        cut = _on_lattice(side * int(rng.integers(38, 63)) // 100)
        cut = min(max(cut, MIN_ROOM_SIDE), side - MIN_ROOM_SIDE)
        if room.width >= room.depth:
            middle = room.x0 + cut
            rooms += [Rect(room.x0, room.z0, middle, room.z1), Rect(middle, room.z0, room.x1, room.z1)]
        else:
            middle = room.z0 + cut
            rooms += [Rect(room.x0, room.z0, room.x1, middle), Rect(room.x0, middle, room.x1, room.z1)]
    return rooms


def _draw_doors(rng: np.random.Generator, rooms: list[Rect]) -> list[Door] | None:
    """Draw doors that connect all rooms, or return None if too few rooms share a wide enough wall."""
    openings = []
    for a, first in enumerate(rooms):
        for b, second in enumerate(rooms[:a]):
            opening = _draw_opening(rng, first, second)
            if opening is not None:
                openings.append(Door((a, b), opening))

    group = list(range(len(rooms)))
    doors = []
    for index in rng.permutation(len(openings)):
        door = openings[index]
        a, b = (group[room] for room in door.rooms)
        if a != b:
            group = [a if g == b else g for g in group]
            doors.append(door)
        elif rng.integers(100) < _EXTRA_DOOR_PERCENT:
            doors.append(door)
    return doors if len(set(group)) == 1 else None


def _draw_opening(rng: np.random.Generator, first: Rect, second: Rect) -> Rect | None:
    """Draw a door opening in the wall that two rooms share, or return None if it is not wide enough."""
    x0, x1 = max(first.x0, second.x0), min(first.x1, second.x1)
    z0, z1 = max(first.z0, second.z0), min(first.z1, second.z1)
    margin = 2 * WALL
    if x0 == x1 and z1 - z0 >= DOOR_WIDTH + 2 * margin:
        start = _draw_start(rng, z0 + margin, z1 - margin)
        return Rect(x0 - WALL, start, x0 + WALL, start + DOOR_WIDTH)
    if z0 == z1 and x1 - x0 >= DOOR_WIDTH + 2 * margin:
        start = _draw_start(rng, x0 + margin, x1 - margin)
        return Rect(start, z0 - WALL, start + DOOR_WIDTH, z0 + WALL)
    return None


def _draw_start(rng: np.random.Generator, low: int, high: int) -> int:
    return low + LATTICE * int(rng.integers((high - low - DOOR_WIDTH) // LATTICE + 1))


def _on_lattice(length: int) -> int:
    return length // LATTICE * LATTICE
