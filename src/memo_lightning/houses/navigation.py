"""Walking in a house: what blocks the agent, how it slides along walls, and how far it is to a goal.

Obstacles are rectangles, grown by the agent's radius; what is left of the floor is where the agent's centre
may be. A shortest path through such a space bends only at corners of the grown rectangles. So the distances
between all corners that see each other are laid out once per house as a graph, scipy finds its shortest
paths, and the distance from any point is the best over the corners that it sees: exact everywhere, without
the detours of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from memo_lightning.houses.floor_plan import LATTICE
from memo_lightning.houses.furnishing import AGENT_RADIUS
from memo_lightning.houses.house import House, HouseSpec, build_house

SKIN = 1e-3  # metres that corners and the agent keep away from what blocks them


class Navigator:
    """Movement and distances in one house; all points are (x, z) in metres.

    Args:
        house: the house, whose furniture blocks and whose objects do not.

    Attributes:
        lower: lowest x and z of the house.
        upper: highest x and z of the house.
        blocks: what blocks the agent's centre, float64 ``[B, 4]``: lowest x and z, highest x and z.
        corners: where shortest paths can bend, float64 ``[C, 2]``.
        between: distances on foot between them, float64 ``[C, C]``.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._roomy = np.nonzero(house.roomy)
        grown = [area.grown(AGENT_RADIUS) for area in house.obstacles]
        self.blocks = np.array([(a.x0, a.z0, a.x1, a.z1) for a in grown]) / 100
        bounds = house.plan.bounds
        self.lower = (bounds.x0 / 100, bounds.z0 / 100)
        self.upper = (bounds.x1 / 100, bounds.z1 / 100)

        outside = np.concatenate(
            [
                self.blocks[:, columns] + SKIN * np.array(outwards)
                for columns, outwards in (
                    ((0, 1), (-1, -1)),
                    ((0, 3), (-1, 1)),
                    ((2, 1), (1, -1)),
                    ((2, 3), (1, 1)),
                )
            ]
        )
        self.corners = np.ascontiguousarray([point for point in outside if self.is_free(*point)])
        edges = _visible_pairs(self.corners, self.blocks)
        lengths, predecessors = dijkstra(csr_matrix(edges), directed=False, return_predecessors=True)
        self.between = lengths
        self._next_corner = predecessors.T  # on the way from a row's corner to a column's

    def is_free(self, x: float, z: float) -> bool:
        """Return whether the agent's centre may be at a point."""
        inside = self.lower[0] < x < self.upper[0] and self.lower[1] < z < self.upper[1]
        return inside and not _is_blocked(x, z, self.blocks)

    def move(self, x: float, z: float, dx: float, dz: float) -> tuple[float, float, bool]:
        """Move from a free point, sliding along what is in the way.

        Returns:
            The new point, and whether anything was in the way.
        """
        return slide(x, z, dx, dz, self.blocks)

    def field(self, goals: Sequence[tuple[float, float]]) -> DistanceField:
        """Return the distances to the nearest of ``goals``; goals that are not free are out of reach."""
        return DistanceField(self, [goal for goal in goals if self.is_free(*goal)])

    def clearance(self, x: float, z: float) -> float:
        """Return the distance from a free point to the nearest point that is not."""
        gaps = np.maximum(np.maximum(self.blocks[:, :2] - (x, z), (x, z) - self.blocks[:, 2:]), 0.0)
        return float(np.sqrt((gaps**2).sum(axis=1)).min())

    def free_map(self, metres_per_pixel: float) -> np.ndarray:
        """Return bool ``[rows, columns]``, z downwards, x to the right: where the agent's centre may be."""
        bounds, free = self._house.plan.bounds, self._house.free
        shape = [max(math.ceil(cm / 100 / metres_per_pixel), 1) for cm in (bounds.depth, bounds.width)]
        rows, columns = (
            np.minimum(((np.arange(n) + 0.5) * limit / n).astype(int), limit - 1)
            for n, limit in zip(shape, free.shape, strict=True)
        )
        return free[np.ix_(rows, columns)]

    def sample(self, rng: np.random.Generator) -> tuple[float, float]:
        """Return a free point, uniform over the lattice squares that are roomy."""
        rows, columns = self._roomy
        index = int(rng.integers(len(rows)))
        return (
            self.lower[0] + (LATTICE * int(columns[index]) + LATTICE / 2) / 100,
            self.lower[1] + (LATTICE * int(rows[index]) + LATTICE / 2) / 100,
        )


class DistanceField:
    """Shortest distances to the nearest of some goals, from anywhere in a house.

    Args:
        navigator: of the house.
        goals: free points.
    """

    def __init__(self, navigator: Navigator, goals: Sequence[tuple[float, float]]) -> None:
        self._navigator = navigator
        self._goals = np.array(goals, np.float64).reshape(-1, 2)
        corners, blocks = navigator.corners, navigator.blocks
        direct = visible_lengths(self._goals, corners, blocks)  # [goals, corners]
        through = direct[:, :, None] + navigator.between[None]  # [goals, corner at the goal, corner]
        flat = through.reshape(-1, len(corners))
        if len(flat):
            self._last = flat.argmin(axis=0)  # which goal, and which corner leads to it
            self._to_goal = flat.min(axis=0)
        else:
            self._last = np.zeros(len(corners), np.int64)
            self._to_goal = np.full(len(corners), np.inf)

    def distance(self, x: float, z: float) -> float:
        """Return the length of the shortest path from a free point, in metres; infinite if there is none."""
        return self._nearest(x, z)[0]

    def path(self, x: float, z: float) -> list[tuple[float, float]]:
        """Return where the shortest path from (x, z) bends, with both ends; empty if there is none."""
        length, goal, corner = self._nearest(x, z)
        if not math.isfinite(length):
            return []
        points = [(x, z)]
        if corner >= 0:
            goal, last = divmod(int(self._last[corner]), len(self._navigator.corners))
            points.append(self._corner(corner))
            while corner != last:
                corner = int(self._navigator._next_corner[corner, last])
                points.append(self._corner(corner))
        points.append((float(self._goals[goal, 0]), float(self._goals[goal, 1])))
        return points

    def _corner(self, index: int) -> tuple[float, float]:
        x, z = self._navigator.corners[index]
        return float(x), float(z)

    def _nearest(self, x: float, z: float) -> tuple[float, int, int]:
        """Return the distance, the goal seen directly or -1, and the corner to walk to first or -1."""
        return nearest_goal(x, z, self._goals, self._navigator.corners, self._to_goal, self._navigator.blocks)


@lru_cache(maxsize=64)
def build_navigator(spec: HouseSpec) -> Navigator:
    """Return the navigator of a generated house; those asked for most recently are kept."""
    return Navigator(build_house(spec))


@njit(cache=True, error_model="numpy")
def _is_blocked(x, z, blocks):  # type: ignore[no-untyped-def]
    blocked = False
    for k in range(len(blocks)):
        blocked |= blocks[k, 0] <= x <= blocks[k, 2] and blocks[k, 1] <= z <= blocks[k, 3]
    return blocked


@njit(cache=True, error_model="numpy")
def _entry(x, z, dx, dz, block):  # type: ignore[no-untyped-def]
    """Return where a segment enters a block, as a fraction, 2 if it does not; and along which axis."""
    # Most blocks are elsewhere, which comparing tells without a division; by more than rounding.
    if block[0] > max(x, x + dx) + 1e-9 or block[2] < min(x, x + dx) - 1e-9:
        return 2.0, 0
    if block[1] > max(z, z + dz) + 1e-9 or block[3] < min(z, z + dz) - 1e-9:
        return 2.0, 0
    enter, leave, axis = -1e30, 1e30, 0
    for k, o, d in ((0, x, dx), (1, z, dz)):
        if d == 0.0:
            if o <= block[k] or o >= block[k + 2]:
                return 2.0, 0
        else:
            a, b = (block[k] - o) / d, (block[k + 2] - o) / d
            if a > b:
                a, b = b, a
            if a > enter:
                enter, axis = a, k
            leave = min(leave, b)
    if enter >= leave or enter >= 1.0 or leave <= 0.0:
        return 2.0, 0
    return max(enter, 0.0), axis


@njit(cache=True, error_model="numpy")
def _sees(x, z, to_x, to_z, blocks):  # type: ignore[no-untyped-def]
    for k in range(len(blocks)):  # noqa: SIM110 - numba compiles no generators
        if _entry(x, z, to_x - x, to_z - z, blocks[k])[0] <= 1.0:
            return False
    return True


@njit(cache=True, error_model="numpy")
def slide(x, z, dx, dz, blocks):  # type: ignore[no-untyped-def]
    """Return where a step from a free point leads, along what is in its way, and whether anything is."""
    collided = False
    for _ in range(3):  # straight on, along a wall, along the next wall
        first, axis = 2.0, 0
        for k in range(len(blocks)):
            t, side = _entry(x, z, dx, dz, blocks[k])
            if t < first:
                first, axis = t, side
        if first > 1.0:
            x, z = x + dx, z + dz
            break
        collided = True
        # Stop a skin before the block, then slide along it.
        length = abs(dx) if axis == 0 else abs(dz)
        t = max(first - SKIN / length, 0.0)
        x, z = x + t * dx, z + t * dz
        dx, dz = (0.0, (1.0 - t) * dz) if axis == 0 else ((1.0 - t) * dx, 0.0)
        if dx == 0.0 and dz == 0.0:
            break
    return x, z, collided


@njit(cache=True, error_model="numpy")
def visible_lengths(starts, ends, blocks):  # type: ignore[no-untyped-def]
    """Return the length ``[starts, ends]`` of every straight way that nothing blocks, infinite for others."""
    lengths = np.full((len(starts), len(ends)), np.inf)
    for i in range(len(starts)):
        for j in range(len(ends)):
            if _sees(starts[i, 0], starts[i, 1], ends[j, 0], ends[j, 1], blocks):
                dx, dz = ends[j, 0] - starts[i, 0], ends[j, 1] - starts[i, 1]
                lengths[i, j] = np.sqrt(dx * dx + dz * dz)
    return lengths


@njit(cache=True, error_model="numpy")
def _visible_pairs(corners, blocks):  # type: ignore[no-untyped-def]
    """Return the same between all pairs of corners, with 0, which scipy takes for no edge, where blocked."""
    lengths = np.zeros((len(corners), len(corners)))
    for i in range(len(corners)):
        for j in range(i):
            if _sees(corners[i, 0], corners[i, 1], corners[j, 0], corners[j, 1], blocks):
                dx, dz = corners[j, 0] - corners[i, 0], corners[j, 1] - corners[i, 1]
                lengths[i, j] = lengths[j, i] = np.sqrt(dx * dx + dz * dz)
    return lengths


@njit(cache=True, error_model="numpy")
def nearest_goal(x, z, goals, corners, to_goal, blocks):  # type: ignore[no-untyped-def]
    """Return the distance to the nearest goal, the goal seen directly or -1, and the corner to walk to first or -1."""
    best, goal, corner = np.inf, -1, -1
    for k in range(len(goals)):
        dx, dz = goals[k, 0] - x, goals[k, 1] - z
        length = np.sqrt(dx * dx + dz * dz)
        if length < best and _sees(x, z, goals[k, 0], goals[k, 1], blocks):
            best, goal = length, k
    for k in range(len(corners)):
        dx, dz = corners[k, 0] - x, corners[k, 1] - z
        length = np.sqrt(dx * dx + dz * dz) + to_goal[k]
        # Seeing is dearer than comparing, so it is asked for improvements only.
        if length < best and _sees(x, z, corners[k, 0], corners[k, 1], blocks):
            best, goal, corner = length, -1, k
    return best, goal, corner
