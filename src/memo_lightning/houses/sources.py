"""Sources of placements and their episodes: generated on demand, or read from a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from inspect import signature
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from memo_lightning.errors import UserError, require
from memo_lightning.houses.episode_file import StoredPlacement, load, read_text
from memo_lightning.houses.house import HouseSpec
from memo_lightning.houses.navigation import DistanceField, build_navigator
from memo_lightning.houses.placement import Placement, PlacementSpec
from memo_lightning.houses.pose import HEADINGS
from memo_lightning.houses.starts import Start, cached_placement, draw_start

Split = Literal["train", "held_out_placements", "held_out"]
TRAIN_HOUSES, HELD_OUT_HOUSES, PLACEMENTS_PER_HOUSE = 37, 12, 300
_FIRST_HELD_OUT_SEED = _FIRST_HELD_OUT_PLACEMENT = 100_000
_CROWDED = 10  # objects per room; with fewer, every house has room


class Source(Protocol):
    """A source of placements and their episodes."""

    n_placements: int
    episodes_per_placement: int

    def scene_id(self, index: int) -> str:
        """Return the scene id of placement ``index`` without generating the placement."""

    def placement(self, index: int) -> Placement:
        """Return placement ``index``."""

    def start(self, index: int, number: int) -> Start:
        """Return the start of episode ``number`` of placement ``index``; any number is allowed."""


class GeneratedSource:
    """A source of placements in generated houses.

    Args:
        split: ``train``; ``held_out_placements``, other placements in the training houses; or ``held_out``,
            other houses.
        n_houses: number of houses, at most 12 for ``held_out`` and 37 otherwise; None for all.
        n_placements: placements per house, at most 100,000.
        n_episodes: episodes listed per placement; trials may use more.
        min_rooms: fewest rooms of a house.
        max_rooms: most rooms of a house.
        n_types: number of object types in use.
        n_objects: objects per placement.

    Raises:
        UserError: if a value is out of range.
    """

    def __init__(
        self,
        split: Split = "train",
        n_houses: int | None = None,
        n_placements: int = PLACEMENTS_PER_HOUSE,
        n_episodes: int = 64,
        min_rooms: int = 5,
        max_rooms: int = 8,
        n_types: int = 20,
        n_objects: int = 30,
    ) -> None:
        require(split in get_args(Split), "split", split, f"one of {', '.join(get_args(Split))}")
        available = HELD_OUT_HOUSES if split == "held_out" else TRAIN_HOUSES
        n_houses = available if n_houses is None else n_houses
        require(
            1 <= n_houses <= available,
            "n_houses",
            n_houses,
            f"between 1 and {available} for split={split!r}, or null for all",
        )
        allowed = f"between 1 and {_FIRST_HELD_OUT_PLACEMENT}"
        require(1 <= n_placements <= _FIRST_HELD_OUT_PLACEMENT, "n_placements", n_placements, allowed)
        require(n_episodes >= 1, "n_episodes", n_episodes, "at least 1")
        first_seed = _FIRST_HELD_OUT_SEED if split == "held_out" else 0
        first_placement = _FIRST_HELD_OUT_PLACEMENT if split == "held_out_placements" else 0
        self._houses = [HouseSpec(first_seed + k, min_rooms, max_rooms) for k in range(n_houses)]
        self._first_placement, self._per_house = first_placement, n_placements
        self._n_types, self._n_objects = n_types, n_objects
        self._spec(0)  # raises if a value is out of range
        self.n_placements, self.episodes_per_placement = n_houses * n_placements, n_episodes

    def scene_id(self, index: int) -> str:
        """Return the scene id of placement ``index`` without generating the placement."""
        return self._spec(index).house.scene_id

    def placement(self, index: int) -> Placement:
        """Return placement ``index``; recently used placements are cached."""
        return cached_placement(self._spec(index))

    def start(self, index: int, number: int) -> Start:
        """Return the start of episode ``number`` of placement ``index``; any number is allowed."""
        return draw_start(self._spec(index), number)

    def check_room(self) -> None:
        """Raise :class:`UserError` if a crowded house has no room for its objects, by drawing its first placement."""
        for house, spec in enumerate(self._houses):
            if self._n_objects > _CROWDED * spec.min_rooms:
                self.placement(house * self._per_house)

    def _spec(self, index: int) -> PlacementSpec:
        house, number = divmod(index, self._per_house)
        return PlacementSpec(self._houses[house], self._first_placement + number, self._n_types, self._n_objects)


class StoredSource:
    """A source of placements read from a file; after a placement's last episode, its first comes again."""

    def __init__(self, stored: Sequence[StoredPlacement]) -> None:
        self._stored = stored
        self.n_placements = len(stored)
        self.episodes_per_placement = min(len(item.starts) for item in stored)

    def scene_id(self, index: int) -> str:
        """Return the scene id of placement ``index``."""
        return self._stored[index].placement.scene_id

    def placement(self, index: int) -> Placement:
        """Return placement ``index``."""
        return self._stored[index].placement

    def start(self, index: int, number: int) -> Start:
        """Return the start of episode ``number`` of placement ``index``; numbers wrap around after the last."""
        starts = self._stored[index].starts
        return starts[number % len(starts)]


def read_source(path: Path, split: str, check: Callable[[StoredPlacement], object]) -> StoredSource:
    """Read the placements in a file or, given a folder, in its ``<split>.jsonl.gz``.

    Args:
        path: path of the file or folder.
        split: the split that the file must hold, if it names one.
        check: called with every placement; raises ``ValueError`` if it cannot be used.

    Raises:
        UserError: if the file cannot be read or used, or holds another split.
    """
    if path.is_dir():
        path = path / f"{split}.jsonl.gz"
    file = load(read_text(path), f"episode file {path}", check)
    if file.split not in (None, split):
        raise UserError(
            f"env.data_path={path}: contains split {file.split!r}, but env.split={split}; export split {split!r} into "
            f"the same folder and use env.data_path={path.parent}"
        )
    return StoredSource(file.placements)


def check_walkable(stored: StoredPlacement) -> None:
    """Raise ``ValueError`` unless the agent can stand at every start and goal and walk between them.

    Start headings must be multiples of 30 degrees.

    Raises:
        UserError: if the scene is not a generated house.
    """
    navigator = build_navigator(HouseSpec.from_scene_id(stored.placement.scene_id))
    reference = stored.placement.objects[0].goal
    field = _field(stored.placement.scene_id, reference)

    def check(name: str, x: float, z: float) -> None:
        if not navigator.is_free(x, z):
            raise ValueError(f"{name} at x={x:g}, z={z:g}: this position is blocked")
        if not math.isfinite(field.distance(x, z)):
            raise ValueError(f"{name} at x={x:g}, z={z:g}: no path leads from here to {reference}")

    for placed in stored.placement.objects:
        check(f"the goal of object {placed.instance}", *placed.goal)
    for number, start in enumerate(stored.starts):
        check(f"the start of episode {number}", start.x, start.z)
        if start.heading not in HEADINGS:
            raise ValueError(f"the heading of episode {number} is {start.heading}: must be a multiple of 30 below 360")


@lru_cache(maxsize=256)
def _field(scene_id: str, goal: tuple[float, float]) -> DistanceField:
    return build_navigator(HouseSpec.from_scene_id(scene_id)).field([goal])


def generated_source(split: str, options: Mapping[str, Any]) -> GeneratedSource:
    """Build the source of ``split`` with the further ``options`` of a configuration.

    Raises:
        UserError: if :class:`GeneratedSource` has no such option, or a value is out of range.
    """
    known = [name for name in signature(GeneratedSource).parameters if name != "split"]
    for name in options:
        require(name in known, "dataset option", name, f"one of {', '.join(known)}")
    return GeneratedSource(split, **options)  # type: ignore[arg-type]
