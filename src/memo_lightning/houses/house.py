"""Houses generated from a seed: rooms, doors, walls, pictures and furniture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, chain, groupby

import numpy as np
from scipy import ndimage

from memo_lightning.errors import UserError, require
from memo_lightning.houses import furniture
from memo_lightning.houses.floor_plan import LATTICE, Rect, draw_floor_plan
from memo_lightning.houses.furnishing import AGENT_RADIUS, Furnisher, Piece
from memo_lightning.houses.shapes import Solid, SolidArrays, pack
from memo_lightning.houses.shell import box, build_shell


@dataclass(frozen=True)
class HouseSpec:
    """The specification of a generated house; equal specifications give equal houses on every machine.

    Args:
        seed: seed of all randomness in the house.
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
            UserError: if it does not name a generated house.
        """
        match = re.fullmatch(r"house-(\d+)to(\d+)rooms-(\d{6,})", scene_id)
        if match is None:
            raise UserError(
                f"scene_id={scene_id!r}: must be a generated house, e.g. {HouseSpec(17).scene_id!r}; for scenes on "
                f"disk, use env.simulator=habitat_sim"
            )
        low, high, seed = (int(group) for group in match.groups())
        return HouseSpec(seed, low, high)


@dataclass(frozen=True)
class SolidGroup:
    """Solids ``first`` to ``stop - 1``, all in one room; ``room`` is -1 for the ceiling, which spans all rooms."""

    room: int
    first: int
    stop: int


class House:
    """A generated house without its objects; use :func:`build_house`.

    Attributes:
        spec: the specification of the house.
        plan: rooms and doors, centimetres.
        room_kinds: the kind of each room, by name.
        pieces: the furniture.
        stands: areas on the furniture where objects can stand.
        obstacles: what blocks the agent, as rectangles on the floor, centimetres.
        free: bool ``[nz, nx]``, the lattice squares at whose centre the agent can stand; one connected part.
        roomy: bool ``[nz, nx]``, free squares with free squares all around them. Agents and goals are placed on these,
            so that it does not matter if another simulator's free space differs by a square.
        solids: all visible solids, unpacked.
        arrays: the same solids packed for the ray caster, with instance 0.
        groups: solids that belong together: the ceiling, then the shell of each room, pictures, and furniture.
    """

    def __init__(self, spec: HouseSpec) -> None:
        rng = np.random.default_rng([spec.seed, spec.min_rooms, spec.max_rooms])
        self.spec = spec
        self.plan = draw_floor_plan(rng, int(rng.integers(spec.min_rooms, spec.max_rooms + 1)))
        self.room_kinds = _draw_room_kinds(rng, len(self.plan.rooms))

        shell, walls, pictures = build_shell(rng, self.plan)
        builder = Furnisher(rng, self.plan, walls)
        for room, kind in enumerate(self.room_kinds):
            for item in furniture.ROOMS[kind]:
                builder.try_to_place(item, room)
        self.pieces: tuple[Piece, ...] = tuple(builder.pieces)
        self.obstacles = (*walls, *(piece.footprint for piece in self.pieces))
        self.free = _free_squares(self.plan.bounds, self.obstacles)
        self.roomy = ndimage.binary_erosion(self.free, np.ones((3, 3)))
        self.stands = tuple(stand for piece in self.pieces for stand in piece.stands)
        shown = [box(area, low, high, paint) for area, low, high, paint in pictures if self._is_bare(area, low)]
        furniture_solids = [piece.solids for piece in self.pieces]
        self.solids = (*shell, *shown, *chain.from_iterable(furniture_solids))
        self.arrays: SolidArrays = pack(self.solids)
        shell_rooms = [-1, *(self._room_of(solid) for solid in shell[1:])]  # the first is the ceiling
        sizes = [(room, len(list(run))) for room, run in groupby(shell_rooms)]
        sizes += [(self._room_of(solid), 1) for solid in shown]
        sizes += [(piece.room, len(solids)) for piece, solids in zip(self.pieces, furniture_solids, strict=True)]
        stops = accumulate(size for _, size in sizes)
        self.groups = tuple(
            SolidGroup(room, stop - size, stop) for (room, size), stop in zip(sizes, stops, strict=True)
        )

    def _room_of(self, solid: Solid) -> int:
        x, z = 100 * solid.centre[0], 100 * solid.centre[2]
        areas = enumerate(self.plan.rooms)
        return next(room for room, area in areas if area.x0 < x < area.x1 and area.z0 < z < area.z1)

    def _is_bare(self, area: Rect, height: int) -> bool:
        """Return whether no furniture on ``area`` is taller than ``height``."""
        return not any(p.footprint.overlaps(area) and p.furniture.height > height for p in self.pieces)

    def roomy_points(self, room: int) -> np.ndarray:
        """Return the centres ``[n, 2]`` (x, z; metres) of the roomy lattice squares of a room."""
        return self._roomy_points[room]

    @cached_property
    def _roomy_points(self) -> tuple[np.ndarray, ...]:
        return tuple(self._find_roomy_points(room) for room in range(len(self.plan.rooms)))

    def _find_roomy_points(self, room: int) -> np.ndarray:
        area, bounds = self.plan.rooms[room], self.plan.bounds
        z0, x0 = (area.z0 - bounds.z0) // LATTICE, (area.x0 - bounds.x0) // LATTICE
        part = self.roomy[z0 : z0 + area.depth // LATTICE, x0 : x0 + area.width // LATTICE]
        rows, columns = np.nonzero(part)
        x = area.x0 + LATTICE * columns + LATTICE / 2
        z = area.z0 + LATTICE * rows + LATTICE / 2
        return np.stack([x, z], axis=1) / 100


@lru_cache(maxsize=64)
def build_house(spec: HouseSpec) -> House:
    """Return the house for ``spec``; recently used houses are cached."""
    return House(spec)


def _free_squares(bounds: Rect, obstacles: Sequence[Rect]) -> np.ndarray:
    """Return bool ``[nz, nx]``: the lattice squares whose centre is farther from obstacles than the agent's radius.

    Only the largest connected part counts: a few squares between furniture cannot be reached.
    """
    x = np.arange(bounds.x0, bounds.x1, LATTICE) + LATTICE / 2
    z = np.arange(bounds.z0, bounds.z1, LATTICE)[:, None] + LATTICE / 2
    free = np.ones((z.size, x.size), np.bool_)
    for area in obstacles:
        gap_x = np.maximum(np.maximum(area.x0 - x, x - area.x1), 0)
        gap_z = np.maximum(np.maximum(area.z0 - z, z - area.z1), 0)
        free &= gap_x**2 + gap_z**2 > AGENT_RADIUS**2
    parts, _ = ndimage.label(free)
    return parts == 1 + np.bincount(parts[free] - 1).argmax()


def _draw_room_kinds(rng: np.random.Generator, n_rooms: int) -> tuple[str, ...]:
    """Draw a kind for every room; every kind is used once before any is used twice."""
    kinds = list(furniture.ROOMS)
    order = [kinds[i] for _ in range(-(-n_rooms // len(kinds))) for i in rng.permutation(len(kinds))]
    return tuple(order[:n_rooms])
