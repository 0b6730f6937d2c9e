"""Placing furniture in rooms so that no door is blocked and the free floor stays connected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from memo_lightning.houses.floor_plan import LATTICE, WALL, Door, FloorPlan, Rect
from memo_lightning.houses.furniture import Furniture
from memo_lightning.houses.shapes import Solid
from memo_lightning.houses.shell import box

AGENT_RADIUS = 20  # centimetres, like all lengths here
_DOOR_CLEARANCE = 90  # of empty floor on each side of a door
_TRIES_PER_PIECE = 25


@dataclass(frozen=True)
class Stand:
    """A level area in a room where objects can stand; all lengths in centimetres."""

    room: int
    area: Rect
    height: int
    clearance: int


@dataclass(frozen=True)
class Piece:
    """A placed piece of furniture; ``side`` is where its back faces (N: low z, W: low x)."""

    furniture: Furniture
    room: int
    footprint: Rect
    side: str

    def to_world(self, x: int, z: int) -> tuple[int, int]:
        """Convert (x, z) from the piece's own coordinates to world coordinates."""
        area = self.footprint
        if self.side == "N":
            return area.x0 + x, area.z0 + z
        if self.side == "S":
            return area.x1 - x, area.z1 - z
        if self.side == "W":
            return area.x0 + z, area.z1 - x
        return area.x1 - z, area.z0 + x

    def world_rect(self, x0: int, z0: int, x1: int, z1: int) -> Rect:
        """Convert a rectangle from the piece's own coordinates to world coordinates."""
        a, b = self.to_world(x0, z0), self.to_world(x1, z1)
        return Rect(min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]))

    @property
    def solids(self) -> list[Solid]:
        """The solids that make up the piece."""
        return [
            box(self.world_rect(x0, z0, x1, z1), y0, y1, part.paint)
            for part in self.furniture.parts
            for x0, y0, z0, x1, y1, z1 in (part.box,)
        ]

    @property
    def stands(self) -> list[Stand]:
        """The areas of the piece on which objects can stand."""
        return [
            Stand(self.room, self.world_rect(*surface.area), surface.height, surface.clearance)
            for surface in self.furniture.surfaces
        ]


class Furnisher:
    """Placer of furniture that keeps the free floor connected, even for a square agent."""

    def __init__(self, rng: np.random.Generator, plan: FloorPlan, walls: list[Rect]) -> None:
        self._rng = rng
        self._plan = plan
        self._door_zones = [_door_zone(door) for door in plan.doors]
        bounds = plan.bounds
        self._open = np.ones((bounds.depth // LATTICE, bounds.width // LATTICE), dtype=bool)
        for wall in walls:
            self._cells(self._open, wall)[:] = False
        self.pieces: list[Piece] = []

    def try_to_place(self, item: Furniture, room: int) -> None:
        """Add ``item`` to ``room`` if there is a place that keeps doors clear and the free floor connected."""
        for _ in range(_TRIES_PER_PIECE):
            piece = self._draw_piece(item, room)
            if piece is None or not self._fits(piece):
                continue
            left = self._open.copy()
            self._cells(left, piece.footprint)[:] = False
            if ndimage.label(left)[1] == 1:
                self._open = left
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
        """Return a view of the cells of ``grid`` that ``obstacle`` closes to the centre of a square agent."""
        bounds, area = self._plan.bounds, obstacle.grown(AGENT_RADIUS)
        z0, z1 = max(area.z0 - bounds.z0, 0) // LATTICE, (area.z1 - bounds.z0) // LATTICE
        x0, x1 = max(area.x0 - bounds.x0, 0) // LATTICE, (area.x1 - bounds.x0) // LATTICE
        return grid[z0:z1, x0:x1]


def _door_zone(door: Door) -> Rect:
    area = door.opening
    if area.depth == 2 * WALL:
        return Rect(area.x0, area.z0 - _DOOR_CLEARANCE, area.x1, area.z1 + _DOOR_CLEARANCE)
    return Rect(area.x0 - _DOOR_CLEARANCE, area.z0, area.x1 + _DOOR_CLEARANCE, area.z1)
