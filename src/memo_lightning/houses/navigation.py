"""Navigation in a house: collisions, sliding along walls, and geodesic distances to goals.

The agent is a disc, obstacles are rectangles, and the agent's centre may be anywhere that no obstacle is closer than
its radius. A shortest path in this space is straight except where it bends around corners of rectangles, on arcs of
the agent's radius. For distances, polygons approximate the arcs, with four sides per quarter circle and their corners
on the arc, so a path cuts an arc by up to 4 mm and bends only at polygon corners. The visibility graph of these
corners is built once per house, and scipy finds its shortest paths. The distance from any point is the minimum over
the goals and corners that it sees, without the detours of a grid.
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
from memo_lightning.houses.shapes import turn

RADIUS = AGENT_RADIUS / 100  # metres; the agent's centre must be farther than this from obstacles
SKIN = 1e-3  # extra metres that path corners and the walking agent keep away from obstacles
_KEPT = RADIUS + SKIN
_ROUNDING = 1e-9  # metres; tolerance for rounding errors
_NORMALS = (0.0, 90.0, 11.25, 33.75, 56.25, 78.75, 101.25, 123.75, 146.25, 168.75)  # of a polygon's sides, degrees
# The polygon around a point lies between pairs of parallel lines, given here by normal and distance from the point.
_LINES = np.array([(*turn(degrees), 1.0 if degrees % 90 == 0 else turn(11.25)[0]) for degrees in _NORMALS])
_LINES[:, 2] *= RADIUS + 10 * _ROUNDING  # an agent that touches both sides of a passage cannot pass


class Navigator:
    """Movement and distances in one house; all points are (x, z) in metres.

    Args:
        house: the house; its furniture blocks the way, objects do not.

    Attributes:
        lower: lowest x and z of the house.
        upper: highest x and z of the house.
        blocks: the obstacles, float64 ``[B, 4]``: lowest x and z, highest x and z.
        corners: points at which paths can bend, float64 ``[C, 2]``.
        between: geodesic distances between the corners, float64 ``[C, C]``.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._roomy = np.nonzero(house.roomy)
        self.blocks = np.array([(a.x0, a.z0, a.x1, a.z1) for a in house.obstacles]) / 100
        bounds = house.plan.bounds
        self.lower = (bounds.x0 / 100, bounds.z0 / 100)
        self.upper = (bounds.x1 / 100, bounds.z1 / 100)
        self.corners = np.array([point for point in _bends(self.blocks) if self._is_outside_of_polygons(*point)])
        edges = _visible_pairs(self.corners, self.blocks)
        lengths, predecessors = dijkstra(csr_matrix(edges), directed=False, return_predecessors=True)
        self.between = lengths
        self._next_corner = predecessors.T  # [from, to]: the next corner on the path

    def is_free(self, x: float, z: float) -> bool:
        """Return whether the agent's centre may be at a point."""
        return self._is_inside(x, z) and not _is_blocked(x, z, self.blocks)

    def move(self, x: float, z: float, dx: float, dz: float) -> tuple[float, float, bool]:
        """Move from a free point, sliding along obstacles.

        Returns:
            The new point, and whether the agent collided.
        """
        return slide(x, z, dx, dz, self.blocks)

    def field(self, goals: Sequence[tuple[float, float]]) -> DistanceField:
        """Return the distance field of the nearest of ``goals``, ignoring goals that are not free."""
        return DistanceField(self, [goal for goal in goals if self.is_free(*goal)])

    def clearance(self, x: float, z: float) -> float:
        """Return the distance from a free point to the nearest point that is not free."""
        gaps = np.maximum(np.maximum(self.blocks[:, :2] - (x, z), (x, z) - self.blocks[:, 2:]), 0.0)
        return float(np.sqrt((gaps**2).sum(axis=1)).min()) - RADIUS

    def free_map(self, metres_per_pixel: float) -> np.ndarray:
        """Return where the agent's centre may be, bool ``[rows, columns]``; z points down and x right."""
        bounds, free = self._house.plan.bounds, self._house.free
        shape = [max(math.ceil(cm / 100 / metres_per_pixel), 1) for cm in (bounds.depth, bounds.width)]
        rows, columns = (
            np.minimum(((np.arange(n) + 0.5) * limit / n).astype(int), limit - 1)
            for n, limit in zip(shape, free.shape, strict=True)
        )
        return free[np.ix_(rows, columns)]

    def sample(self, rng: np.random.Generator) -> tuple[float, float]:
        """Sample a free point, uniformly among the centres of the roomy lattice squares."""
        rows, columns = self._roomy
        index = int(rng.integers(len(rows)))
        return (
            self.lower[0] + (LATTICE * int(columns[index]) + LATTICE / 2) / 100,
            self.lower[1] + (LATTICE * int(rows[index]) + LATTICE / 2) / 100,
        )

    def _is_outside_of_polygons(self, x: float, z: float) -> bool:
        return self._is_inside(x, z) and _sees(x, z, x, z, self.blocks)

    def _is_inside(self, x: float, z: float) -> bool:
        return self.lower[0] < x < self.upper[0] and self.lower[1] < z < self.upper[1]


class DistanceField:
    """Geodesic distances from any point of a house to the nearest of several goals.

    Args:
        navigator: navigator of the house.
        goals: positions of the goals, which must be free.
    """

    def __init__(self, navigator: Navigator, goals: Sequence[tuple[float, float]]) -> None:
        self._navigator = navigator
        self._goals = np.array(goals, np.float64).reshape(-1, 2)
        corners, blocks = navigator.corners, navigator.blocks
        direct = visible_lengths(self._goals, corners, blocks)  # [goals, corners]
        through = direct[:, :, None] + navigator.between[None]  # [goals, corner at the goal, corner]
        flat = through.reshape(-1, len(corners))
        if len(flat):
            self._last = flat.argmin(axis=0)  # index of the goal and of the last corner before it
            self._to_goal = flat.min(axis=0)
        else:
            self._last = np.zeros(len(corners), np.int64)
            self._to_goal = np.full(len(corners), np.inf)

    def distance(self, x: float, z: float) -> float:
        """Return the geodesic distance from a free point, in metres; infinite if there is no path."""
        return self._nearest(x, z)[0]

    def path(self, x: float, z: float) -> list[tuple[float, float]]:
        """Return the points of the shortest path from (x, z), including both ends; empty if there is no path."""
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
        """Return the distance, the goal if it is in direct sight or -1, and the first corner on the path or -1."""
        return nearest_goal(x, z, self._goals, self._navigator.corners, self._to_goal, self._navigator.blocks)


@lru_cache(maxsize=64)
def build_navigator(spec: HouseSpec) -> Navigator:
    """Return the navigator of a generated house; recently used navigators are cached."""
    return Navigator(build_house(spec))


def _bends(blocks: np.ndarray) -> np.ndarray:
    """Return the corners of polygons around obstacles, float64 ``[C, 2]``, :data:`SKIN` outside what blocks sight."""
    quarter = np.array([turn(degrees) for degrees in (0.0, 22.5, 45.0, 67.5, 90.0)])
    outwards = {(0, 1): (-1, -1), (0, 3): (-1, 1), (2, 1): (1, -1), (2, 3): (1, 1)}
    around = [blocks[:, None, columns] + _KEPT * quarter * signs for columns, signs in outwards.items()]
    return np.concatenate(around).reshape(-1, 2)


@njit(cache=True, error_model="numpy")
def _is_blocked(x, z, blocks):  # type: ignore[no-untyped-def]
    blocked = False
    for k in range(len(blocks)):
        gap_x = max(blocks[k, 0] - x, x - blocks[k, 2], 0.0)
        gap_z = max(blocks[k, 1] - z, z - blocks[k, 3], 0.0)
        blocked |= gap_x * gap_x + gap_z * gap_z <= RADIUS * RADIUS
    return blocked


@njit(cache=True, error_model="numpy")
def _sees(x, z, to_x, to_z, blocks):  # type: ignore[no-untyped-def]
    """Return whether no polygon lies between two points or, if they coincide, whether none contains the point."""
    low_x, high_x = min(x, to_x) - _KEPT, max(x, to_x) + _KEPT
    low_z, high_z = min(z, to_z) - _KEPT, max(z, to_z) + _KEPT
    for k in range(len(blocks)):
        # Comparisons rule out most blocks without a division.
        if blocks[k, 0] > high_x or blocks[k, 2] < low_x or blocks[k, 1] > high_z or blocks[k, 3] < low_z:
            continue
        if _is_between(x, z, to_x - x, to_z - z, blocks, k):
            return False
    return True


@njit(cache=True, error_model="numpy")
def _is_between(x, z, dx, dz, blocks, k):  # type: ignore[no-untyped-def]
    """Return whether a line segment enters the polygon around block ``k``."""
    half_x, half_z = (blocks[k, 2] - blocks[k, 0]) / 2, (blocks[k, 3] - blocks[k, 1]) / 2
    x, z = x - (blocks[k, 0] + half_x), z - (blocks[k, 1] + half_z)
    enter, leave = 0.0, 1.0
    for line in range(len(_LINES)):
        normal_x, normal_z = _LINES[line, 0], _LINES[line, 1]
        reach = abs(normal_x) * half_x + abs(normal_z) * half_z + _LINES[line, 2]
        first, last = _pass(normal_x * x + normal_z * z, normal_x * dx + normal_z * dz, -reach, reach)
        enter, leave = max(enter, first), min(leave, last)
        if enter >= leave:
            return False
    return True


@njit(cache=True, error_model="numpy")
def slide(x, z, dx, dz, blocks):  # type: ignore[no-untyped-def]
    """Return where a step from a free point ends, sliding along obstacles, and whether it collides."""
    collided = False
    for _ in range(3):  # straight on, along an obstacle, along the next one
        first, away_x, away_z = 2.0, 0.0, 0.0
        for k in range(len(blocks)):
            meeting = _meet(x, z, dx, dz, blocks, k)
            if meeting[0] < first:
                first, away_x, away_z = meeting
        if first > 1.0:
            x, z = x + dx, z + dz
            break
        collided = True
        x, z = x + first * dx, z + first * dz
        dx, dz = (1.0 - first) * dx, (1.0 - first) * dz
        away = away_x * dx + away_z * dz
        dx, dz = dx - away * away_x, dz - away * away_z
        if dx == 0.0 and dz == 0.0:
            break
    return x, z, collided


@njit(cache=True, error_model="numpy")
def _meet(x, z, dx, dz, blocks, k):  # type: ignore[no-untyped-def]
    """Return when a moving point comes too close to block ``k``, and the direction away from the block there.

    The time is a fraction of the step, 2 for never. A point that is already too close collides at once unless it moves
    away.
    """
    low_x, low_z, high_x, high_z = blocks[k, 0], blocks[k, 1], blocks[k, 2], blocks[k, 3]
    # When the point is inside the rectangle grown by the distance to keep.
    enter_x, leave_x = _pass(x, dx, low_x - _KEPT, high_x + _KEPT)
    enter_z, leave_z = _pass(z, dz, low_z - _KEPT, high_z + _KEPT)
    enter, leave = max(enter_x, enter_z), min(leave_x, leave_z)
    if enter >= leave or enter >= 1.0 or leave <= 0.0:
        return 2.0, 0.0, 0.0
    enter = max(enter, 0.0)
    at_x, at_z = x + enter * dx, z + enter * dz
    near_x, near_z = min(max(at_x, low_x), high_x), min(max(at_z, low_z), high_z)
    if at_x == near_x or at_z == near_z:  # one of the sides
        away_x, away_z = np.sign(at_x - near_x), np.sign(at_z - near_z)
        return (enter, away_x, away_z) if away_x * dx + away_z * dz < 0.0 else (2.0, 0.0, 0.0)
    # Near a corner, the point hits the arc or misses it; it cannot pass the arc and hit another part of the rectangle.
    px, pz = x - near_x, z - near_z
    squared, approach = dx * dx + dz * dz, px * dx + pz * dz
    inside = approach * approach - squared * (px * px + pz * pz - _KEPT * _KEPT)
    if approach > -_ROUNDING or inside <= _ROUNDING * squared:  # touching is not a collision
        return 2.0, 0.0, 0.0
    t = max((-approach - np.sqrt(inside)) / squared, 0.0)
    px, pz = px + t * dx, pz + t * dz
    distance = np.sqrt(px * px + pz * pz)
    return t, px / distance, pz / distance


@njit(cache=True, error_model="numpy")
def _pass(start, way, low, high):  # type: ignore[no-untyped-def]
    """Return when a point moving along an axis enters and leaves the interval from ``low`` to ``high``."""
    if way == 0.0:
        return (-np.inf, np.inf) if low < start < high else (np.inf, -np.inf)
    first, second = (low - start) / way, (high - start) / way
    return min(first, second), max(first, second)


@njit(cache=True, error_model="numpy")
def visible_lengths(starts, ends, blocks):  # type: ignore[no-untyped-def]
    """Return the lengths ``[starts, ends]`` of all straight lines, infinite where something blocks them."""
    lengths = np.full((len(starts), len(ends)), np.inf)
    for i in range(len(starts)):
        for j in range(len(ends)):
            if _sees(starts[i, 0], starts[i, 1], ends[j, 0], ends[j, 1], blocks):
                dx, dz = ends[j, 0] - starts[i, 0], ends[j, 1] - starts[i, 1]
                lengths[i, j] = np.sqrt(dx * dx + dz * dz)
    return lengths


@njit(cache=True, error_model="numpy")
def _visible_pairs(corners, blocks):  # type: ignore[no-untyped-def]
    """Return the lengths between all pairs of corners, with 0 where blocked, which scipy reads as no edge."""
    lengths = np.zeros((len(corners), len(corners)))
    for i in range(len(corners)):
        for j in range(i):
            if _sees(corners[i, 0], corners[i, 1], corners[j, 0], corners[j, 1], blocks):
                dx, dz = corners[j, 0] - corners[i, 0], corners[j, 1] - corners[i, 1]
                lengths[i, j] = lengths[j, i] = np.sqrt(dx * dx + dz * dz)
    return lengths


@njit(cache=True, error_model="numpy")
def nearest_goal(x, z, goals, corners, to_goal, blocks):  # type: ignore[no-untyped-def]
    """Return the distance to the nearest goal, the goal if in direct sight or -1, and the first corner or -1."""
    best, goal, corner = np.inf, -1, -1
    for k in range(len(goals)):
        dx, dz = goals[k, 0] - x, goals[k, 1] - z
        length = np.sqrt(dx * dx + dz * dz)
        if length < best and _sees(x, z, goals[k, 0], goals[k, 1], blocks):
            best, goal = length, k
    for k in range(len(corners)):
        dx, dz = corners[k, 0] - x, corners[k, 1] - z
        length = np.sqrt(dx * dx + dz * dz) + to_goal[k]
        # Visibility costs more than a comparison, so it is tested only for improvements.
        if length < best and _sees(x, z, corners[k, 0], corners[k, 1], blocks):
            best, goal, corner = length, -1, k
    return best, goal, corner
