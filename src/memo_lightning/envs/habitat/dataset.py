"""The episodes of ExtObjNav as a habitat dataset: generated on demand, or read from a file.

Nothing is generated before it is needed, so a dataset of 11,100 placements opens immediately.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from habitat.core.dataset import Dataset, EpisodeIterator
from habitat.core.registry import registry
from omegaconf import DictConfig

from memo_lightning.envs.habitat.episodes import ExtObjNavEpisode, make_episode
from memo_lightning.houses import OBJECT_TYPES, GeneratedSource, Placement, episode_file
from memo_lightning.houses.sources import Source, StoredSource, check_walkable, generated_source, read_source


@registry.register_dataset(name="ExtObjNav-v1")
class ExtObjNavDataset(Dataset):
    """Placements in houses, each with a sequence of episodes.

    ``episodes`` lists the episodes placement by placement and makes each on demand.

    Args:
        config: ``habitat.dataset`` of the configuration: a ``data_path`` to read, which is a file or a folder with
            ``<split>.jsonl.gz``, or, if that is empty, the ``split`` and, under ``metadata``, the other arguments of
            :class:`~memo_lightning.houses.sources.GeneratedSource`. Without a configuration, all training placements.

    Raises:
        UserError: if a value is out of range; if the file is missing, corrupt or of another split; or, in generated
            houses, if the agent cannot stand at a start or walk from there to a goal.
    """

    def __init__(self, config: DictConfig | None = None) -> None:
        self._source: Source
        self._scene_dataset = "default" if config is None else config.get("scene_dataset", "default")
        self._split = "train" if config is None else config.split
        if config is not None and config.data_path:
            self._use(read_source(Path(config.data_path.replace("{split}", config.split)), config.split, self._check))
        elif config is not None:
            self._use(generated_source(config.split, config.metadata or {}))
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
        """Return episode ``number`` of placement ``index``; any number is allowed, as trials may be long."""
        source = self._source
        start, origin = source.start(index, number), source.start(index, 0)
        return make_episode(source.placement(index), number, start, origin, self._scene_dataset)

    def get_episode_iterator(self, *args: Any, **kwargs: Any) -> EpisodeIterator:
        """Return an iterator over the episodes that makes each on demand; options as in habitat."""
        return _LazyEpisodeIterator(self, *args, **kwargs)

    def to_json(self) -> str:
        """Return the dataset as text, one line of JSON per placement; generates all of it."""
        return episode_file.dump(episode_file.EpisodeFile(self._split, self._make_all()))

    def from_json(self, json_str: str, scenes_dir: str | None = None) -> None:
        """Replace the dataset with one written by :meth:`to_json`.

        Raises:
            UserError: if the text is corrupt; the message names the line.
        """
        self._use(StoredSource(episode_file.load(json_str, "episode file", self._check).placements))

    def save(self, path: Path | str) -> int:
        """Write the dataset to a file, compressed if its name ends with ``.gz``.

        Returns:
            The number of goals that were rejected as unreachable while the placements were made.
        """
        stored = self._make_all()
        episode_file.write_text(Path(path), episode_file.dump(episode_file.EpisodeFile(self._split, stored)))
        return sum(item.placement.n_rejected for item in stored)

    def _make_all(self) -> list[episode_file.StoredPlacement]:
        source = self._source
        numbers = range(source.episodes_per_placement)
        return [
            episode_file.StoredPlacement(source.placement(k), tuple(source.start(k, n) for n in numbers))
            for k in range(source.n_placements)
        ]

    def _check(self, stored: episode_file.StoredPlacement) -> None:
        """Raise ``ValueError`` if a placement is unusable; in scenes of a scene dataset only habitat-sim can tell."""
        if self._scene_dataset == "default":
            check_walkable(stored)

    def _use(self, source: Source) -> None:
        self._source = source
        self.episodes = _LazyEpisodes(self)


class _LazyEpisodes(Sequence[ExtObjNavEpisode]):
    """All listed episodes of a dataset, each made on demand."""

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
    """habitat's episode iterator for a list too long to make at once.

    Of habitat's options, ``cycle``, ``shuffle``, ``group_by_scene`` and ``seed`` work as usual; the episodes of a
    placement stay together. Switching scenes after a number of steps or episodes, and drawing a sample, have no place
    in trials.
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
        self.episodes = dataset.episodes
        self._source = dataset._source
        self._rng = np.random.default_rng(seed)
        self._step_count = 0
        self._iterator = self._run_through()

    def __next__(self) -> ExtObjNavEpisode:
        episode = next(self._iterator, None)
        if episode is None:
            if not self.cycle:
                raise StopIteration
            self._iterator = self._run_through()
            episode = next(self._iterator)
        return episode

    def _run_through(self) -> Iterator[ExtObjNavEpisode]:
        """Return all episodes once, placement by placement."""
        placements = list(range(self._source.n_placements))
        if self.shuffle:
            placements = self._rng.permutation(placements).tolist()
            if self.group_by_scene:
                scenes: dict[str, list[int]] = {}
                for index in placements:
                    scenes.setdefault(self._source.scene_id(index), []).append(index)
                placements = [index for group in scenes.values() for index in group]
        n = self._source.episodes_per_placement
        return (self.episodes[index * n + number] for index in placements for number in range(n))
