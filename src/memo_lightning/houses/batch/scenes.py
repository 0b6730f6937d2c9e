"""Placements packed into arrays for the kernels: solids, obstacles, and geodesic distances to all goals.

Notation used for shapes:
    - K: places, each for one placement
    - P: solids of a scene; G: groups of solids; R: rooms
    - B: blocks; C: corners; O: objects; T: object types
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from memo_lightning.houses.batch.threads import Threads
from memo_lightning.houses.house import House, HouseSpec, build_house
from memo_lightning.houses.navigation import Navigator, build_navigator, visible_lengths
from memo_lightning.houses.object_types import OBJECT_TYPES
from memo_lightning.houses.placement import TYPE_NUMBERS, Placement
from memo_lightning.houses.shapes import KINDS, SolidArrays, concatenate
from memo_lightning.houses.sources import Source

_SPARE = 64  # placements kept in addition to those in use


class Scenes(NamedTuple):
    """Packed placements, padded to the largest of them.

    Boxes are laid out as shapes of solids are: centre, half extents, and 1 and 0, the cosine and sine of a zero yaw.

    Args:
        kind, instance, type, pattern: int32 ``[K, P]``, see :class:`~memo_lightning.houses.shapes.SolidArrays`.
        shape: float64 ``[K, P, 8]``.
        paint: float32 ``[K, P, 7]``.
        solid_box: float64 ``[K, P, 8]``, the bounding box of each solid.
        group: int64 ``[K, G, 3]``: room, first solid, and the one after the last.
        group_box: float64 ``[K, G, 8]``.
        n_groups: int64 ``[K]``.
        room_box: float64 ``[K, R, 8]``, the bounding box of everything in a room.
        room_area: float64 ``[K, R, 4]``: lowest x and z, highest x and z.
        n_rooms: int64 ``[K]``.
        blocks: float64 ``[K, B, 4]``, see :class:`~memo_lightning.houses.navigation.Navigator`.
        n_blocks: int64 ``[K]``.
        corners: float64 ``[K, C, 2]``, points at which paths can bend.
        n_corners: int64 ``[K]``.
        goal: float64 ``[K, O, 2]``, x and z of the free goals, sorted by type.
        goal_instance: int32 ``[K, O]``.
        goal_range: int64 ``[K, T, 2]``, the first goal of a type and the one after its last.
        to_goal: float64 ``[K, O, C]``, geodesic distances from the corners to each goal.
        to_type: float64 ``[K, T, C]``, the same to the nearest goal of each type.
    """

    kind: np.ndarray
    instance: np.ndarray
    type: np.ndarray
    pattern: np.ndarray
    shape: np.ndarray
    paint: np.ndarray
    solid_box: np.ndarray
    group: np.ndarray
    group_box: np.ndarray
    n_groups: np.ndarray
    room_box: np.ndarray
    room_area: np.ndarray
    n_rooms: np.ndarray
    blocks: np.ndarray
    n_blocks: np.ndarray
    corners: np.ndarray
    n_corners: np.ndarray
    goal: np.ndarray
    goal_instance: np.ndarray
    goal_range: np.ndarray
    to_goal: np.ndarray
    to_type: np.ndarray


class ScenePool:
    """The placements in use and those used most recently, each packed once.

    Args:
        source: source of the placements.
        n_rows: number of environments, each of which uses one placement.
        threads: threads that compute the distances.
    """

    def __init__(self, source: Source, n_rows: int, threads: Threads) -> None:
        self._source, self._threads = source, threads
        self._n_places = min(n_rows + _SPARE, source.n_placements)
        self._place_of: OrderedDict[int, int] = OrderedDict()  # by placement, least recently used first
        self._n_users = np.zeros(self._n_places, np.int64)
        self._placements: dict[int, Placement] = {}
        self.arrays = _empty_scenes(self._n_places)

    def __len__(self) -> int:
        return len(self._place_of)

    def placement(self, place: int) -> Placement:
        """Return the placement at a place."""
        return self._placements[place]

    def take(self, indices: Sequence[int]) -> list[int]:
        """Return the places of placements; each is reserved until it is given back."""
        places = []
        for index in indices:
            if index not in self._place_of:
                place = self._free_place()
                self._fill(place, self._source.placement(index))
                self._place_of[index] = place
            self._place_of.move_to_end(index)
            self._n_users[self._place_of[index]] += 1
            places.append(self._place_of[index])
        return places

    def give_back(self, place: int) -> None:
        """Release a place for one environment that used it."""
        self._n_users[place] -= 1

    def _free_place(self) -> int:
        if len(self._place_of) < self._n_places:
            return len(self._place_of)
        index = next(index for index, place in self._place_of.items() if self._n_users[place] == 0)
        return self._place_of.pop(index)

    def _fill(self, place: int, placement: Placement) -> None:
        """Pack a placement and the distances to its goals into a place."""
        spec = HouseSpec.from_scene_id(placement.scene_id)
        house, navigator = build_house(spec), build_navigator(spec)
        self._placements[place] = placement
        packed = {**_pack_solids(house, placement), **_pack_walking(navigator, placement)}
        sizes = {name: len(packed[name]) for name in ("group", "room_area", "blocks", "corners")}
        self._grow(packed)
        arrays = self.arrays._asdict()
        for name, value in packed.items():
            arrays[name][place][tuple(map(slice, value.shape))] = value
        for name, size in zip(("n_groups", "n_rooms", "n_blocks", "n_corners"), sizes.values(), strict=True):
            arrays[name][place] = size
        self._threads.run(_lay_out_distances, self.arrays, navigator.between, place)
        _take_nearest(self.arrays, place)

    def _grow(self, packed: dict[str, np.ndarray]) -> None:
        """Enlarge the arrays for a placement that is larger than those before."""
        n_corners, n_goals = len(packed["corners"]), len(packed["goal"])
        needed = {name: value.shape for name, value in packed.items()}
        needed |= {"to_goal": (n_goals, n_corners), "to_type": (len(OBJECT_TYPES), n_corners)}
        grown = {}
        for name, shape in needed.items():
            array = getattr(self.arrays, name)
            if any(have < need for have, need in zip(array.shape[1:], shape, strict=True)):
                larger = np.maximum(array.shape[1:], shape)
                grown[name] = np.zeros((self._n_places, *larger), array.dtype)
                grown[name][tuple(map(slice, array.shape))] = array
        self.arrays = self.arrays._replace(**grown)


def _empty_scenes(n: int) -> Scenes:
    def empty(*shape: int, dtype: type = np.float64) -> np.ndarray:
        return np.zeros((n, *shape), dtype)

    n_types = len(OBJECT_TYPES)
    number, integer = np.int32, np.int64
    return Scenes(
        kind=empty(0, dtype=number), instance=empty(0, dtype=number), type=empty(0, dtype=number),
        pattern=empty(0, dtype=number), shape=empty(0, 8), paint=empty(0, 7, dtype=np.float32),
        solid_box=empty(0, 8), group=empty(0, 3, dtype=integer), group_box=empty(0, 8), n_groups=empty(dtype=integer),
        room_box=empty(0, 8), room_area=empty(0, 4), n_rooms=empty(dtype=integer),
        blocks=empty(0, 4), n_blocks=empty(dtype=integer), corners=empty(0, 2), n_corners=empty(dtype=integer),
        goal=empty(0, 2), goal_instance=empty(0, dtype=number), goal_range=empty(n_types, 2, dtype=integer),
        to_goal=empty(0, 0), to_type=empty(n_types, 0),
    )  # fmt: skip


def _pack_solids(house: House, placement: Placement) -> dict[str, np.ndarray]:
    solids = concatenate(house.arrays, placement.arrays)
    boxes = _boxes_of(solids)
    n_house, n_rooms = len(house.arrays.kind), len(house.plan.rooms)
    groups = [(group.room, group.first, group.stop) for group in house.groups]
    for placed in placement.objects:
        own = n_house + np.flatnonzero(placement.arrays.instance == placed.instance)
        # In scenes written by hand the room may be wrong; its bounding box encloses the object all the same.
        groups.append((min(max(placed.room, 0), n_rooms - 1), int(own[0]), int(own[-1]) + 1))
    group = np.array(groups, np.int64)
    group_box = np.array([_box_around(boxes[first:stop]) for _, first, stop in groups])
    bounds = house.plan.rooms
    return {
        **solids._asdict(),
        "solid_box": boxes,
        "group": group,
        "group_box": group_box,
        "room_box": np.array([_box_around(group_box[group[:, 0] == room]) for room in range(n_rooms)]),
        "room_area": np.array([(area.x0, area.z0, area.x1, area.z1) for area in bounds]) / 100,
    }


def _pack_walking(navigator: Navigator, placement: Placement) -> dict[str, np.ndarray]:
    free = [placed for placed in placement.objects if navigator.is_free(*placed.goal)]
    free.sort(key=lambda placed: TYPE_NUMBERS[placed.type])
    numbers = np.array([TYPE_NUMBERS[placed.type] for placed in free], np.int64)
    types = np.arange(1, len(OBJECT_TYPES) + 1)
    return {
        "blocks": navigator.blocks,
        "corners": navigator.corners,
        "goal": np.array([placed.goal for placed in free], np.float64).reshape(-1, 2),
        "goal_instance": np.array([placed.instance for placed in free], np.int32),
        "goal_range": np.stack([np.searchsorted(numbers, types), np.searchsorted(numbers, types, "right")], axis=1),
    }


def _boxes_of(solids: SolidArrays) -> np.ndarray:
    """Return the axis-aligned bounding box of each solid, float64 ``[P, 8]``."""
    boxes = solids.shape.copy()
    half_x, half_z = boxes[:, 3].copy(), boxes[:, 5].copy()
    is_frustum = solids.kind == KINDS.index("frustum")
    widest = np.maximum(half_x, half_z)
    half_x[is_frustum] = half_z[is_frustum] = widest[is_frustum]
    cosine, sine = np.abs(boxes[:, 6]), np.abs(boxes[:, 7])
    boxes[:, 3], boxes[:, 5] = cosine * half_x + sine * half_z, sine * half_x + cosine * half_z
    boxes[:, 6], boxes[:, 7] = 1.0, 0.0
    return boxes


def _box_around(boxes: np.ndarray) -> np.ndarray:
    low = (boxes[:, :3] - boxes[:, 3:6]).min(axis=0)
    high = (boxes[:, :3] + boxes[:, 3:6]).max(axis=0)
    return np.concatenate([(low + high) / 2, (high - low) / 2, (1.0, 0.0)])


@njit(cache=True, nogil=True, error_model="numpy")
def _lay_out_distances(scenes, between, place, first, stride):  # type: ignore[no-untyped-def]
    """Write the distances from all corners to each goal of a place; the threads share the goals."""
    n_goals = scenes.goal_range[place, -1, 1]
    n_corners, blocks = scenes.n_corners[place], scenes.blocks[place, : scenes.n_blocks[place]]
    corners = scenes.corners[place, :n_corners]
    for number in range(first, n_goals, stride):
        direct = visible_lengths(scenes.goal[place, number : number + 1], corners, blocks)[0]
        lengths = scenes.to_goal[place, number]
        lengths[:] = np.inf
        for k in range(n_corners):
            if direct[k] < np.inf:
                for corner in range(n_corners):
                    lengths[corner] = min(lengths[corner], direct[k] + between[k, corner])


@njit(cache=True, nogil=True, error_model="numpy")
def _take_nearest(scenes, place):  # type: ignore[no-untyped-def]
    """Write the distances from all corners to the nearest goal of each type."""
    for number in range(scenes.to_type.shape[1]):
        lengths = scenes.to_type[place, number]
        lengths[:] = np.inf
        for goal in range(scenes.goal_range[place, number, 0], scenes.goal_range[place, number, 1]):
            for corner in range(scenes.n_corners[place]):
                lengths[corner] = min(lengths[corner], scenes.to_goal[place, goal, corner])
