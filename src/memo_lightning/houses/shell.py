"""The shell of a house: floors, walls with door openings, the ceiling, and pictures on the walls."""

from __future__ import annotations

import numpy as np

from memo_lightning.houses.floor_plan import WALL, FloorPlan, Rect
from memo_lightning.houses.shapes import Colour, Paint, Pattern, Solid

DOOR_HEIGHT = 205  # centimetres, like all lengths here
CEILING = 260
Picture = tuple[Rect, int, int, Paint]  # footprint, lower and upper height, paint

_WALL_PAINTS: tuple[tuple[Colour, Colour, Pattern, float], ...] = (
    ((214, 202, 178), (202, 188, 162), "stripes", 0.30),
    ((178, 196, 206), (168, 186, 198), "plain", 0.30),
    ((196, 172, 156), (170, 142, 126), "bricks", 0.12),
    ((190, 204, 178), (178, 192, 164), "stripes", 0.45),
    ((216, 208, 214), (204, 194, 202), "checks", 0.35),
    ((222, 216, 188), (214, 206, 176), "plain", 0.35),
    ((168, 178, 196), (152, 162, 182), "stripes", 0.20),
    ((208, 186, 186), (196, 172, 172), "rings", 0.45),
)
_FLOOR_PAINTS: tuple[tuple[Colour, Colour, Pattern, float], ...] = (
    ((146, 108, 72), (130, 94, 60), "planks", 0.16),
    ((188, 188, 184), (160, 160, 158), "checks", 0.40),
    ((112, 92, 80), (100, 80, 70), "planks", 0.12),
    ((150, 146, 132), (142, 138, 124), "checks", 0.25),
    ((178, 152, 116), (162, 136, 102), "planks", 0.20),
    ((120, 128, 132), (112, 120, 124), "plain", 0.30),
)
_PICTURE_COLOURS: tuple[Colour, ...] = (
    (60, 90, 150), (196, 92, 60), (70, 130, 90), (210, 180, 80),
    (120, 70, 120), (70, 70, 76), (210, 214, 220),
)  # fmt: skip


def box(area: Rect, low: int, high: int, paint: Paint) -> Solid:
    """Return a box over ``area`` between two heights, all in centimetres."""
    return Solid(
        "box",
        ((area.x0 + area.x1) / 200, (low + high) / 200, (area.z0 + area.z1) / 200),
        (area.width / 200, (high - low) / 200, area.depth / 200),
        paint,
    )


def build_shell(rng: np.random.Generator, plan: FloorPlan) -> tuple[list[Solid], list[Rect], list[Picture]]:
    """Return floors, walls, lintels and ceiling as solids, the walls as obstacles, and the pictures for them."""
    solids = [box(plan.bounds, CEILING, CEILING + 10, Paint((232, 232, 228)))]
    obstacles: list[Rect] = []
    pictures: list[Picture] = []
    floor_paints = rng.permutation(len(_FLOOR_PAINTS))
    wall_paints = rng.permutation(len(_WALL_PAINTS))
    for index, room in enumerate(plan.rooms):
        solids.append(box(room, -10, 0, Paint(*_FLOOR_PAINTS[floor_paints[index % len(floor_paints)]])))
        paint = Paint(*_WALL_PAINTS[wall_paints[index % len(wall_paints)]])
        openings = [door.opening for door in plan.doors if index in door.rooms]
        for wall in _wall_layers(room):
            blocked, open_parts = _cut(wall, openings)
            solids += [box(part, 0, CEILING, paint) for part in blocked]
            solids += [box(part, DOOR_HEIGHT, CEILING, paint) for part in open_parts]
            obstacles += blocked
            pictures += _draw_picture(rng, room, blocked)
    return solids, obstacles, pictures


def _wall_layers(room: Rect) -> tuple[Rect, Rect, Rect, Rect]:
    inner = room.grown(-WALL)
    return (
        Rect(room.x0, room.z0, room.x1, inner.z0),
        Rect(room.x0, inner.z1, room.x1, room.z1),
        Rect(room.x0, inner.z0, inner.x0, inner.z1),
        Rect(inner.x1, inner.z0, room.x1, inner.z1),
    )


def _cut(wall: Rect, openings: list[Rect]) -> tuple[list[Rect], list[Rect]]:
    """Split a wall layer into its standing parts and its door openings."""
    doors = sorted((o for o in openings if o.overlaps(wall)), key=lambda o: (o.x0, o.z0))
    standing, open_parts = [], []
    x, z = wall.x0, wall.z0
    for door in doors:
        if wall.width > wall.depth:
            standing.append(Rect(x, wall.z0, door.x0, wall.z1))
            open_parts.append(Rect(door.x0, wall.z0, door.x1, wall.z1))
            x = door.x1
        else:
            standing.append(Rect(wall.x0, z, wall.x1, door.z0))
            open_parts.append(Rect(wall.x0, door.z0, wall.x1, door.z1))
            z = door.z1
    return [*standing, Rect(x, z, wall.x1, wall.z1)], open_parts


def _draw_picture(rng: np.random.Generator, room: Rect, standing: list[Rect]) -> list[Picture]:
    """Draw a picture on one of the standing parts of a wall, or none, so that rooms look different."""
    wall = standing[int(rng.integers(len(standing)))]
    width, height = 10 * int(rng.integers(5, 13)), 10 * int(rng.integers(4, 9))
    first, second = rng.permutation(len(_PICTURE_COLOURS))[:2]
    pattern: Pattern = ("plain", "checks", "rings", "stripes")[int(rng.integers(4))]
    offset = int(rng.integers(100))
    along_x = wall.width > wall.depth
    spare = (wall.width if along_x else wall.depth) - width - 4 * WALL
    if spare < 0 or rng.integers(100) < 35:
        return []
    start = 2 * WALL + spare * offset // 100
    if along_x:
        z = wall.z1 if wall.z0 == room.z0 else wall.z0 - 2
        area = Rect(wall.x0 + start, z, wall.x0 + start + width, z + 2)
    else:
        x = wall.x1 if wall.x0 == room.x0 else wall.x0 - 2
        area = Rect(x, wall.z0 + start, x + 2, wall.z0 + start + width)
    paint = Paint(_PICTURE_COLOURS[first], _PICTURE_COLOURS[second], pattern, 0.12)
    return [(area, 110, 110 + height, paint)]
