"""Houses that are generated from a seed: rooms, doors, walls, pictures and furniture."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from memo_lightning.envs.habitat import furniture
from memo_lightning.envs.habitat.floor_plan import LATTICE, WALL, Door, FloorPlan, Rect, draw_floor_plan
from memo_lightning.envs.habitat.furniture import Furniture
from memo_lightning.envs.habitat.shapes import Colour, Paint, Pattern, Solid, SolidArrays, pack
from memo_lightning.errors import UserError, require

AGENT_RADIUS = 20  # centimetres
DOOR_HEIGHT = 205
CEILING = 260
_DOOR_CLEARANCE = 90  # of the floor in front of a door that stays empty
_TRIES_PER_PIECE = 25

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
    (60, 90, 150), (196, 92, 60), (70, 130, 90), (210, 180, 80), (120, 70, 120), (70, 70, 76), (210, 214, 220),
)  # fmt: skip


@dataclass(frozen=True)
class HouseSpec:
    """What a house is generated from; the same specification gives the same house on every machine.

    Args:
        seed: of everything random in it.
        min_rooms: fewest rooms.
        max_rooms: most rooms.

    Raises:
        UserError: if a number is out of range.
    """

    seed: int
    min_rooms: int = 5
    max_rooms: int = 8

    def __post_init__(self) -> None:
        require(self.seed >= 0, "house seed", self.seed, "at least 0")
        require(self.min_rooms >= 1, "min_rooms", self.min_rooms, "at least 1")
        allowed = f"at least min_rooms={self.min_rooms} and at most 20"
        require(self.min_rooms <= self.max_rooms <= 20, "max_rooms", self.max_rooms, allowed)

    @property
    def scene_id(self) -> str:
        """The house's name in episodes, e.g. ``house-5to8rooms-000017``."""
        return f"house-{self.min_rooms}to{self.max_rooms}rooms-{self.seed:06d}"

    @staticmethod
    def from_scene_id(scene_id: str) -> HouseSpec:
        """Return the specification that ``scene_id`` names.

        Raises:
            UserError: if it names none.
        """
        match = re.fullmatch(r"house-(\d+)to(\d+)rooms-(\d{6,})", scene_id)
        if match is None:
            raise UserError(
                f"scene {scene_id!r} is missing: must be a generated house such as "
                f"{HouseSpec(17).scene_id!r}, or use env.simulator=habitat_sim for scenes on disk"
            )
        low, high, seed = (int(group) for group in match.groups())
        return HouseSpec(seed, low, high)


@dataclass(frozen=True)
class Stand:
    """A level area in one room where objects can stand; rectangle and heights in centimetres."""

    room: int
    area: Rect
    height: int
    clearance: int


@dataclass(frozen=True)
class Piece:
    """One piece of furniture in its place: ``side`` is the wall at its back (N: low z, W: low x)."""

    furniture: Furniture
    room: int
    footprint: Rect
    side: str

    def to_world(self, x: int, z: int) -> tuple[int, int]:
        """Return the world position of the piece's own (x, z)."""
        area = self.footprint
        if self.side == "N":
            return area.x0 + x, area.z0 + z
        if self.side == "S":
            return area.x1 - x, area.z1 - z
        if self.side == "W":
            return area.x0 + z, area.z1 - x
        return area.x1 - z, area.z0 + x

    def world_rect(self, x0: int, z0: int, x1: int, z1: int) -> Rect:
        """Return the world rectangle of a rectangle in the piece's own coordinates."""
        a, b = self.to_world(x0, z0), self.to_world(x1, z1)
        return Rect(min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]))


class House:
    """A generated house without its objects; use :func:`build_house`.

    Attributes:
        spec: what it was generated from.
        plan: rooms and doors, centimetres.
        room_kinds: one name per room.
        pieces: the furniture.
        stands: where objects can stand on furniture.
        obstacles: what blocks walking, as rectangles on the floor, centimetres.
        free: bool ``[nz, nx]``, the lattice squares where the agent's centre may be.
        solids: everything that is seen, unpacked.
        arrays: the same for the ray caster, with instance 0.
    """

    def __init__(self, spec: HouseSpec) -> None:
        rng = np.random.default_rng([spec.seed, spec.min_rooms, spec.max_rooms])
        self.spec = spec
        self.plan = draw_floor_plan(rng, int(rng.integers(spec.min_rooms, spec.max_rooms + 1)))
        self.room_kinds = _draw_room_kinds(rng, len(self.plan.rooms))

        shell, walls, pictures = _build_shell(rng, self.plan)
        builder = _Furnisher(rng, self.plan, walls)
        for room, kind in enumerate(self.room_kinds):
            for item in furniture.ROOMS[kind]:
                builder.try_to_place(item, room)
        self.pieces: tuple[Piece, ...] = tuple(builder.pieces)
        self.obstacles = (*walls, *(piece.footprint for piece in self.pieces))
        self.free = builder.free
        self.stands = tuple(stand for piece in self.pieces for stand in _stands_of(piece))
        self.solids = (
            *shell,
            *(box(area, low, high, paint) for area, low, high, paint in pictures if self._is_bare(area, low)),
            *(solid for piece in self.pieces for solid in _solids_of(piece)),
        )
        self.arrays: SolidArrays = pack(self.solids, [0] * len(self.solids))

    def _is_bare(self, area: Rect, height: int) -> bool:
        """Return whether no furniture over ``area`` is taller than ``height``."""
        return not any(p.footprint.overlaps(area) and p.furniture.height > height for p in self.pieces)

    def room_at(self, x: float, z: float) -> int:
        """Return the index of the room that holds the point (metres), or -1 outside the house."""
        for index, room in enumerate(self.plan.rooms):
            if room.x0 <= 100 * x < room.x1 and room.z0 <= 100 * z < room.z1:
                return index
        return -1

    def free_points(self, room: int) -> np.ndarray:
        """Return the middles ``[n, 2]`` (x, z; metres) of the lattice squares of a room that are free."""
        area, bounds = self.plan.rooms[room], self.plan.bounds
        z0, x0 = (area.z0 - bounds.z0) // LATTICE, (area.x0 - bounds.x0) // LATTICE
        part = self.free[z0 : z0 + area.depth // LATTICE, x0 : x0 + area.width // LATTICE]
        rows, columns = np.nonzero(part)
        x = area.x0 + LATTICE * columns + LATTICE / 2
        z = area.z0 + LATTICE * rows + LATTICE / 2
        return np.stack([x, z], axis=1) / 100


@lru_cache(maxsize=64)
def build_house(spec: HouseSpec) -> House:
    """Return the house of ``spec``; the houses asked for most recently are kept."""
    return House(spec)


def box(area: Rect, low: int, high: int, paint: Paint) -> Solid:
    """Return a box over ``area`` between two heights, all in centimetres."""
    return Solid(
        "box",
        ((area.x0 + area.x1) / 200, (low + high) / 200, (area.z0 + area.z1) / 200),
        (area.width / 200, (high - low) / 200, area.depth / 200),
        paint,
    )


def _draw_room_kinds(rng: np.random.Generator, n_rooms: int) -> tuple[str, ...]:
    """Return a kind for every room: all kinds once before any comes twice."""
    kinds = list(furniture.ROOMS)
    order = [kinds[i] for _ in range(-(-n_rooms // len(kinds))) for i in rng.permutation(len(kinds))]
    return tuple(order[:n_rooms])


_Picture = tuple[Rect, int, int, Paint]  # over which floor, between which heights


def _build_shell(rng: np.random.Generator, plan: FloorPlan) -> tuple[list[Solid], list[Rect], list[_Picture]]:
    """Return floors, walls, lintels and ceiling as solids, the walls as obstacles, and pictures for them."""
    solids = [box(plan.bounds, CEILING, CEILING + 10, Paint((232, 232, 228)))]
    obstacles: list[Rect] = []
    pictures: list[_Picture] = []
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
    """Return the parts of a wall layer that stand and the parts that doors leave open."""
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


def _draw_picture(rng: np.random.Generator, room: Rect, standing: list[Rect]) -> list[_Picture]:
    """Return a picture on one of the standing parts of a wall, or nothing; it tells rooms apart."""
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


class _Furnisher:
    """Puts furniture into rooms and keeps the free floor in one piece."""

    def __init__(self, rng: np.random.Generator, plan: FloorPlan, walls: list[Rect]) -> None:
        self._rng = rng
        self._plan = plan
        self._door_zones = [zone for door in plan.doors for zone in _door_zones(door)]
        bounds = plan.bounds
        self.free = np.ones((bounds.depth // LATTICE, bounds.width // LATTICE), dtype=bool)
        for wall in walls:
            self._cells(self.free, wall)[:] = False
        self.pieces: list[Piece] = []

    def try_to_place(self, item: Furniture, room: int) -> None:
        """Add ``item`` to ``room`` if a place is found where it blocks neither a door nor the way."""
        for _ in range(_TRIES_PER_PIECE):
            piece = self._draw_piece(item, room)
            if piece is None or not self._fits(piece):
                continue
            free = self.free.copy()
            self._cells(free, piece.footprint)[:] = False
            if ndimage.label(free)[1] == 1:
                self.free = free
                self.pieces.append(piece)
                return

    def _draw_piece(self, item: Furniture, room: int) -> Piece | None:
        side = "NSWE"[int(self._rng.integers(4))]
        inner = self._plan.rooms[room].grown(-WALL)
        width, depth = (item.width, item.depth) if side in "NS" else (item.depth, item.width)
        across, along = (inner.width - width) // LATTICE, (inner.depth - depth) // LATTICE
        if across < 0 or along < 0:
            return None
        x = inner.x0 + LATTICE * int(self._rng.integers(across + 1))
        z = inner.z0 + LATTICE * int(self._rng.integers(along + 1))
        if not item.in_the_middle:
            x = {"W": inner.x0, "E": inner.x1 - width}.get(side, x)
            z = {"N": inner.z0, "S": inner.z1 - depth}.get(side, z)
        return Piece(item, room, Rect(x, z, x + width, z + depth), side)

    def _fits(self, piece: Piece) -> bool:
        others = (other.footprint for other in self.pieces if other.room == piece.room)
        return not any(piece.footprint.overlaps(area) for area in (*others, *self._door_zones))

    def _cells(self, grid: np.ndarray, obstacle: Rect) -> np.ndarray:
        """Return the view of ``grid`` that the agent's centre cannot enter because of ``obstacle``."""
        bounds, area = self._plan.bounds, obstacle.grown(AGENT_RADIUS)
        z0, z1 = max(area.z0 - bounds.z0, 0) // LATTICE, (area.z1 - bounds.z0) // LATTICE
        x0, x1 = max(area.x0 - bounds.x0, 0) // LATTICE, (area.x1 - bounds.x0) // LATTICE
        return grid[z0:z1, x0:x1]


def _door_zones(door: Door) -> tuple[Rect, ...]:
    area = door.opening
    if area.depth == 2 * WALL:
        return (Rect(area.x0, area.z0 - _DOOR_CLEARANCE, area.x1, area.z1 + _DOOR_CLEARANCE),)
    return (Rect(area.x0 - _DOOR_CLEARANCE, area.z0, area.x1 + _DOOR_CLEARANCE, area.z1),)


def _solids_of(piece: Piece) -> list[Solid]:
    solids = []
    for part in piece.furniture.parts:
        x0, y0, z0, x1, y1, z1 = part.box
        solids.append(box(piece.world_rect(x0, z0, x1, z1), y0, y1, part.paint))
    return solids


def _stands_of(piece: Piece) -> list[Stand]:
    return [
        Stand(piece.room, piece.world_rect(*surface.area), surface.height, surface.clearance)
        for surface in piece.furniture.surfaces
    ]
