"""The episodes of ExtObjNav as a habitat dataset: generated on demand, or read from a file.

Nothing is generated before it is asked for, so a dataset of 11,100 placements opens at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, overload

import numpy as np
from habitat.core.dataset import Dataset, EpisodeIterator
from habitat.core.registry import registry
from omegaconf import DictConfig

from memo_lightning.envs.habitat import episode_file
from memo_lightning.envs.habitat.episodes import (
    ExtObjNavEpisode,
    Start,
    cached_placement,
    draw_start,
    make_episode,
)
from memo_lightning.envs.habitat.house import HouseSpec
from memo_lightning.envs.habitat.object_types import OBJECT_TYPES
from memo_lightning.envs.habitat.placement import Placement, PlacementSpec
from memo_lightning.errors import require

Split = Literal["train", "held_out_placements", "held_out"]
TRAIN_HOUSES, HELD_OUT_HOUSES, PLACEMENTS_PER_HOUSE = 37, 12, 300
_FIRST_HELD_OUT_SEED = 100_000


class Source(Protocol):
    """Where placements and their episodes come from."""

    n_placements: int
    episodes_per_placement: int

    def scene_id(self, index: int) -> str:
        """Return the scene of placement ``index`` without making the placement."""

    def placement(self, index: int) -> Placement:
        """Return placement ``index``."""

    def start(self, index: int, number: int) -> Start:
        """Return how episode ``number`` of placement ``index`` begins; any number is allowed."""


class GeneratedSource:
    """Placements in generated houses.

    Args:
        split: ``train``; ``held_out_placements``, other placements in the training houses; or ``held_out``,
            other houses.
        n_houses: houses, at most 37 for training and 12 for ``held_out``.
        n_placements: per house.
        n_episodes: listed per placement; trials may use more.
        min_rooms: fewest rooms of a house.
        max_rooms: most rooms of a house.
        n_types: object types in use.
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
            1 <= n_houses <= available, "n_houses", n_houses, f"between 1 and {available} for split={split!r}"
        )
        allowed = f"between 1 and {PLACEMENTS_PER_HOUSE}"
        require(1 <= n_placements <= PLACEMENTS_PER_HOUSE, "n_placements", n_placements, allowed)
        require(n_episodes >= 1, "n_episodes", n_episodes, "at least 1")
        first_seed = _FIRST_HELD_OUT_SEED if split == "held_out" else 0
        first_placement = PLACEMENTS_PER_HOUSE if split == "held_out_placements" else 0
        houses = [HouseSpec(first_seed + k, min_rooms, max_rooms) for k in range(n_houses)]
        self._specs = [
            PlacementSpec(house, first_placement + k, n_types, n_objects)
            for house in houses
            for k in range(n_placements)
        ]
        self.n_placements, self.episodes_per_placement = len(self._specs), n_episodes

    def scene_id(self, index: int) -> str:
        """Return the scene of placement ``index`` without making the placement."""
        return self._specs[index].house.scene_id

    def placement(self, index: int) -> Placement:
        """Return placement ``index``; those asked for most recently are kept."""
        return cached_placement(self._specs[index])

    def start(self, index: int, number: int) -> Start:
        """Return how episode ``number`` of placement ``index`` begins; any number is allowed."""
        return draw_start(self._specs[index], number)


class StoredSource:
    """Placements that were read from a file; their episodes come again when all are used up."""

    def __init__(self, stored: Sequence[episode_file.StoredPlacement]) -> None:
        self._stored = stored
        self.n_placements = len(stored)
        self.episodes_per_placement = min(len(item.starts) for item in stored)

    def scene_id(self, index: int) -> str:
        """Return the scene of placement ``index``."""
        return self._stored[index].placement.scene_id

    def placement(self, index: int) -> Placement:
        """Return placement ``index``."""
        return self._stored[index].placement

    def start(self, index: int, number: int) -> Start:
        """Return how episode ``number`` of placement ``index`` begins, from the first again after the last."""
        starts = self._stored[index].starts
        return starts[number % len(starts)]


@registry.register_dataset(name="ExtObjNav-v1")
class ExtObjNavDataset(Dataset):
    """Placements in houses, each with a sequence of episodes.

    ``episodes`` lists the episodes placement by placement and makes each when it is asked for.

    Args:
        config: ``habitat.dataset`` of the configuration: a ``data_path`` to read, or, if that is empty, the
            ``split`` and the arguments of :class:`GeneratedSource` under ``metadata``. Without it, all training
            placements.

    Raises:
        UserError: if a value is out of range, or the file is missing or corrupt.
    """

    def __init__(self, config: DictConfig | None = None) -> None:
        self._source: Source
        if config is not None and config.data_path:
            self.from_json(episode_file.read_text(Path(config.data_path.format(split=config.split))))
        elif config is not None:
            self._use(GeneratedSource(config.split, **(config.metadata or {})))
        else:
            self._use(GeneratedSource())

    @property
    def n_placements(self) -> int:
        """Number of placements in all houses."""
        return self._source.n_placements

    @property
    def category_to_task_category_id(self) -> dict[str, int]:
        """The number of every object type, from 0; habitat-lab's ``ObjectGoalSensor`` reads it."""
        return {object_type.name: number for number, object_type in enumerate(OBJECT_TYPES)}

    @property
    def scene_ids(self) -> list[str]:
        """Names of the houses, sorted."""
        return sorted({self._source.scene_id(index) for index in range(self._source.n_placements)})

    def placement(self, index: int) -> Placement:
        """Return placement ``index``."""
        return self._source.placement(index)

    def episode(self, index: int, number: int) -> ExtObjNavEpisode:
        """Return episode ``number`` of placement ``index``; any number is allowed, for trials of any length."""
        source = self._source
        return make_episode(
            source.placement(index), number, source.start(index, number), source.start(index, 0)
        )

    def get_episode_iterator(self, *args: Any, **kwargs: Any) -> EpisodeIterator:
        """Return an iterator over the episodes that makes each only when it comes; options as in habitat."""
        return _LazyEpisodeIterator(self, *args, **kwargs)

    def to_json(self) -> str:
        """Return the dataset as text, one line of JSON per placement; makes all of it."""
        return episode_file.dump(
            episode_file.StoredPlacement(
                self._source.placement(index),
                tuple(self._source.start(index, k) for k in range(self._source.episodes_per_placement)),
            )
            for index in range(self._source.n_placements)
        )

    def from_json(self, json_str: str, scenes_dir: str | None = None) -> None:
        """Replace the dataset by what :meth:`to_json` returned.

        Raises:
            UserError: if the text is corrupt, naming the line.
        """
        self._use(StoredSource(episode_file.load(json_str)))

    def save(self, path: Path | str) -> int:
        """Write the dataset to a file, compressed if its name ends with ``.gz``.

        Returns:
            The number of goals that were rejected as out of reach while the placements were made.
        """
        episode_file.write_text(Path(path), self.to_json())
        return sum(self._source.placement(index).n_rejected for index in range(self._source.n_placements))

    def _use(self, source: Source) -> None:
        self._source = source
        self.episodes = _LazyEpisodes(self)


class _LazyEpisodes(Sequence[ExtObjNavEpisode]):
    """All listed episodes of a dataset, each made when it is asked for."""

    def __init__(self, dataset: ExtObjNavDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return self._dataset._source.n_placements * self._dataset._source.episodes_per_placement

    @overload
    def __getitem__(self, index: int) -> ExtObjNavEpisode: ...
    @overload
    def __getitem__(self, index: slice) -> list[ExtObjNavEpisode]: ...
    def __getitem__(self, index: int | slice) -> ExtObjNavEpisode | list[ExtObjNavEpisode]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._dataset.episode(*divmod(index % len(self), self._dataset._source.episodes_per_placement))


class _LazyEpisodeIterator(EpisodeIterator):
    """habitat's episode iterator for a list that is too long to be made at once.

    Of habitat's options, ``cycle``, ``shuffle``, ``group_by_scene`` and ``seed`` have their meaning; placements
    stay together, as trials need it. Switching scenes after a number of steps or episodes and drawing a sample
    are left to the trials.
    """

    def __init__(
        self,
        dataset: ExtObjNavDataset,
        cycle: bool = True,
        shuffle: bool = False,
        group_by_scene: bool = True,
        seed: int | None = None,
        **_: Any,
    ) -> None:
        self.cycle, self.shuffle, self.group_by_scene = cycle, shuffle, group_by_scene
        self._dataset = dataset
        self._rng = np.random.default_rng(seed)
        self._step_count = 0
        self._indices = self._order()

    def __next__(self) -> ExtObjNavEpisode:
        index = next(self._indices, None)
        if index is None:
            if not self.cycle:
                raise StopIteration
            self._indices = self._order()
            index = next(self._indices)
        return self._dataset.episodes[index]

    def _order(self) -> Iterator[int]:
        source = self._dataset._source
        placements = np.arange(source.n_placements)
        if self.shuffle:
            placements = self._rng.permutation(placements)
            if self.group_by_scene:
                scenes: dict[str, list[int]] = {}
                for index in placements:
                    scenes.setdefault(source.scene_id(index), []).append(index)
                placements = np.array([index for group in scenes.values() for index in group])
        for index in placements:
            first = int(index) * source.episodes_per_placement
            yield from range(first, first + source.episodes_per_placement)
