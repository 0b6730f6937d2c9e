"""Replay of whole trials on disk: TorchRL's buffer, with its disk space reserved in advance and exact resuming."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import LazyMemmapStorage, ReplayBuffer, RoundRobinWriter
from torchrl.data.replay_buffers.samplers import RandomSampler

from memo_lightning.data.overwritten import Overwritten
from memo_lightning.data.prioritized import PrioritizedTrials
from memo_lightning.data.trial_cutting import VALID
from memo_lightning.errors import TrainingStopped, UserError, require

Sampling = Literal["uniform", "prioritized"]
_FORMAT = 1  # version of the folder's layout
_DESCRIPTION = "replay.json"
_FIELD = "algorithm.replay"


@dataclass(frozen=True)
class SampledTrials:
    """A batch of trials.

    Attributes:
        trials: ``[n, t + 1]`` as :func:`~memo_lightning.data.trial_cutting.cut_into_trials` makes them, where t is the
            number of steps of the longest trial.
        index: indices of the trials in the replay, ``[n]``.
        weight: importance weight of each trial, ``[n]``.
    """

    trials: TensorDictBase
    index: Tensor
    weight: Tensor


class TrialReplay:
    """Replay of the newest trials, each padded to one length and stored from its first step.

    As trials are whole, the state of any memory can be recomputed from them. They are stored in memory-mapped files, so
    a replay may be larger than RAM. Its disk space is reserved before training begins. :meth:`progress` returns what a
    resumed run needs besides the files. Trials overwritten since the last checkpoint are kept until the next one.

    Args:
        capacity_trials: maximum number of trials to hold.
        capacity_bytes: maximum number of bytes on disk; None for as many as the trials need.
        trial_length: steps T of the longest trial.
        batch_size: trials per batch.
        sampling: ``uniform``, or ``prioritized`` by the error of each trial (Schaul et al. 2016, arXiv 1511.05952).
        alpha: exponent of the priorities in prioritized sampling; 0 samples uniformly.
        beta: how far weights correct the bias of prioritized sampling, from 0 (not at all) to 1 (fully).
        folder: folder of the replay; None for the folder of the run.

    Attributes:
        capacity: number of trials that fit.
        n_added: number of trials added so far.

    Raises:
        UserError: if a setting is out of range.
    """

    def __init__(
        self,
        *,
        capacity_trials: int,
        capacity_bytes: int | None,
        trial_length: int,
        batch_size: int,
        sampling: Sampling,
        alpha: float,
        beta: float,
        folder: str | None,
    ) -> None:
        for name, count in {"trial_length": trial_length, "batch_size": batch_size}.items():
            require(count >= 1, f"{_FIELD}.{name}", count, "at least 1")
        allowed = f"at least {_FIELD}.batch_size={batch_size}"
        require(capacity_trials >= batch_size, f"{_FIELD}.capacity_trials", capacity_trials, allowed)
        fits = capacity_bytes is None or (isinstance(capacity_bytes, int) and capacity_bytes >= 1)
        require(fits, f"{_FIELD}.capacity_bytes", capacity_bytes, "at least 1, or null")
        kinds = get_args(Sampling)
        require(sampling in kinds, f"{_FIELD}.sampling", sampling, f"one of {', '.join(kinds)}")
        for name, value in {"alpha": alpha, "beta": beta}.items():
            require(0 <= value <= 1, f"{_FIELD}.{name}", value, "between 0 and 1")
        fits = folder is None or isinstance(folder, str)
        require(fits, f"{_FIELD}.folder", folder, "the path of a folder, or null")
        self.capacity, self.capacity_bytes = capacity_trials, capacity_bytes
        self.trial_length, self.batch_size = trial_length, batch_size
        self.sampling, self.alpha, self.beta = sampling, alpha, beta
        self.folder = Path(folder) if folder else None
        self.n_added = 0
        self._restored: list[dict[str, Any]] = []  # the progress of every rank

    def plan(self, trial: TensorDictBase, root: Path, n_processes: int, *, is_resumed: bool) -> str:
        """Check that the replay fits on its disk, before anything is written, and return a line that says its size.

        For a resumed run, call :meth:`load_progress` first.

        Args:
            trial: one trial ``[T + 1]``, whose values do not matter.
            root: where to keep the replay if no folder was set.
            n_processes: number of processes that each keep a replay of this size there.
            is_resumed: whether the run is being resumed.

        Raises:
            UserError: if fewer trials fit than a batch needs, the disk is too small, the folder is not the run's own,
                or the run had a different number of processes.
        """
        root, each = self.folder or root, _nbytes(trial)
        if self.capacity_bytes is not None:
            self.capacity = min(self.capacity, self.capacity_bytes // each)
            least = f"at least {self.batch_size * each}, the size of {_FIELD}.batch_size={self.batch_size} trials"
            require(self.capacity >= self.batch_size, f"{_FIELD}.capacity_bytes", self.capacity_bytes, least)
        needed = self.capacity * each * n_processes
        if is_resumed:
            if self._restored:  # else the run was stopped before its first trial
                self._check_description(root / "rank0", trial)
                allowed = f"such that the number of processes stays {len(self._restored)}, as each has its own replay"
                require(n_processes == len(self._restored), "trainer.devices", n_processes, allowed)
        elif root.exists() and any(root.iterdir()):
            raise UserError(f"{_FIELD}.folder={root}: must be empty or new, or belong to the run that resume= names")
        else:
            free = shutil.disk_usage(next(p for p in (root, *root.absolute().parents) if p.is_dir())).free
            if needed > free:
                raise UserError(
                    f"{_FIELD}.capacity_trials={self.capacity}: must be at most {free // (each * n_processes)}, as it "
                    f"takes {_in_words(needed)} on disk and {root} has {_in_words(free)} free"
                )
        whose = f" for each of {n_processes} processes" if n_processes > 1 else ""
        return f"replay: up to {self.capacity:,} trials{whose}, {_in_words(needed)} on disk in {root}"

    def open(self, trial: TensorDictBase, root: Path, rank: int) -> None:
        """Reserve the disk space of a new replay, or open the replay of a resumed run.

        Args:
            trial: as for :meth:`plan`.
            root: where to keep the replay if no folder was set; the same on all ranks.
            rank: rank of this process, which has its own trials.

        Raises:
            UserError: if the folder holds trials of another kind.
            TrainingStopped: if the disk is full by then.
        """
        folder = (self.folder or root) / f"rank{rank}"
        self._keys = _keys(trial)
        storage = LazyMemmapStorage(self.capacity, scratch_dir=folder / "trials", existsok=True)
        writer = RoundRobinWriter()
        self._overwritten = Overwritten(folder / "overwritten")
        own = self._restored[rank] if self._restored else None
        if own is None:
            try:
                storage._init(self._stored(trial))
                _reserve(folder)
                (folder / _DESCRIPTION).write_text(json.dumps(self._describe(trial), indent=2) + "\n")
            except OSError as error:
                raise TrainingStopped(f"{folder}: the replay cannot be written ({error.strerror})") from None
        else:
            # TorchRL restores a storage from a dump, which would be a copy of all trials.
            self._check_description(folder, trial)
            storage._storage, storage.initialized = TensorDict.load_memmap(folder / "trials"), True
            self.n_added = own["n_added"]
            storage._len, writer._cursor = len(self), self.n_added % self.capacity
            self._overwritten.put_back(storage._storage, self.n_added)
        self._trials: TensorDictBase = storage._storage
        self._priorities: PrioritizedTrials | None = None
        if self.sampling == "prioritized":
            self._priorities = PrioritizedTrials(self.capacity, self.alpha, self.beta)
            if own is not None and "priorities" in own:  # else the run sampled uniformly so far
                self._priorities.load_state_dict(own["priorities"])
            elif len(self):
                self._priorities.extend(torch.arange(len(self)))
        sampler = self._priorities or RandomSampler()
        self._buffer = ReplayBuffer(storage=storage, sampler=sampler, writer=writer, batch_size=self.batch_size)

    def __len__(self) -> int:
        """Return the number of trials held."""
        return min(self.n_added, self.capacity)

    def extend(self, trials: TensorDictBase) -> None:
        """Add trials ``[n, T + 1]``, replacing the oldest.

        Raises:
            TrainingStopped: if the disk is full.
        """
        for first in range(0, len(trials), self.capacity):
            some = trials[first : first + self.capacity].cpu()
            numbers = torch.arange(self.n_added, self.n_added + len(some))
            try:
                self._overwritten.keep(self._trials, numbers[numbers >= self.capacity] % self.capacity, self.n_added)
            except OSError as error:
                reason = f"{self._overwritten.folder}: trials of the replay cannot be written ({error.strerror})"
                raise TrainingStopped(reason) from None
            self._buffer.extend(self._stored(some))
            self.n_added += len(some)

    def sample(self) -> SampledTrials:
        """Return a batch, sampled with replacement by the global random number generators."""
        stored, info = self._buffer.sample(return_info=True)
        trials = TensorDict({}, stored.batch_size)
        for number, key in enumerate(self._keys):
            trials.set(key, stored.get(str(number)))
        longest = int(trials.get(VALID).sum(1).max())
        weight = info.get("priority_weight", torch.ones(len(trials)))
        return SampledTrials(trials[:, : longest + 1], info["index"], weight / weight.max())

    def set_errors(self, index: Tensor, errors: Tensor) -> None:
        """Set the errors ``[n]`` of the trials ``index [n]`` as their priorities; uniform sampling ignores them."""
        if self._priorities is not None:
            self._buffer.update_priority(index, errors.cpu())

    def progress(self) -> list[dict[str, Any]]:
        """Return what every rank needs to resume; all ranks must call this."""
        if not hasattr(self, "_buffer"):
            return self._restored
        own: dict[str, Any] = {"n_added": self.n_added}
        if self._priorities is not None:
            own["priorities"] = self._priorities.state_dict()
        if not torch.distributed.is_initialized():
            return [own]
        of_all: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(of_all, own)
        return of_all

    def load_progress(self, progress: list[dict[str, Any]]) -> None:
        """Keep what :meth:`progress` returned, to be restored by the next :meth:`open`."""
        self._restored = progress

    def checkpoint_saved(self) -> None:
        """Drop the overwritten trials, which only an older checkpoint would need."""
        if hasattr(self, "_buffer"):
            self._overwritten.forget()

    def _stored(self, trials: TensorDictBase) -> TensorDict:
        """Return trials with numbers as keys: files are named after the keys, which users may choose freely."""
        values = {str(number): trials.get(key) for number, key in enumerate(self._keys)}
        return TensorDict(values, trials.batch_size)

    def _describe(self, trial: TensorDictBase) -> dict[str, Any]:
        layout = [[str(key), str(trial.get(key).dtype), *trial.get(key).shape] for key in _keys(trial)]
        return {"format": _FORMAT, "capacity": self.capacity, "trial": layout}

    def _check_description(self, folder: Path, trial: TensorDictBase) -> None:
        """Raise :class:`UserError` unless the folder holds a replay like this one."""
        try:
            found = json.loads((folder / _DESCRIPTION).read_text())
        except (OSError, ValueError):
            raise UserError(f"{folder}: contains no replay, which the run needs to resume") from None
        wanted = json.loads(json.dumps(self._describe(trial)))
        if found.get("format") != _FORMAT:
            raise UserError(f"{folder}: the replay has format {found.get('format')!r}: must be {_FORMAT}")
        if found["capacity"] != self.capacity:
            raise UserError(
                f"{folder}: the replay has a capacity of {found['capacity']} trials: must be {self.capacity}"
            )
        for field in wanted["trial"]:
            if field not in found["trial"]:
                raise UserError(
                    f"{folder}: the replay belongs to another environment or policy: {field[0]} is missing or differs"
                )
        if len(found["trial"]) != len(wanted["trial"]):
            raise UserError(f"{folder}: the replay belongs to another environment or policy: it has other keys")


def _keys(trial: TensorDictBase) -> list[NestedKey]:
    return sorted(trial.keys(True, True), key=str)


def _nbytes(trial: TensorDictBase) -> int:
    return sum(value.numel() * value.element_size() for value in trial.values(True, True))


def _reserve(folder: Path) -> None:
    """Allocate the disk space of the files now: writing to a mapped file on a full disk would kill the process."""
    for path in folder.rglob("*.memmap"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _in_words(n_bytes: int) -> str:
    value, unit = float(n_bytes), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
