"""Isolation of the policy and the learner from environments that change the global random numbers, and their detection.

An environment whose ``reset(seed=...)`` seeds torch would otherwise make a policy draw the same actions in every
episode, and one that draws from torch would change what is learned.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch

_changes: ContextVar[set[str] | None] = ContextVar("changes", default=None)


class GlobalStreams:
    """Torch's global random numbers for a group of environments, which may seed them and draw from them freely.

    Our own code never draws from the global random numbers of numpy and Python, so these are left to the environments.

    Args:
        seed: seed of the stream.
        draws_from_torch: whether environments may draw from torch's global numbers, as is TorchRL's convention, without
            this being noticed as a change.
    """

    def __init__(self, seed: int = 0, *, draws_from_torch: bool = False) -> None:
        self._draws_from_torch = draws_from_torch
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Restart the stream."""
        self._state = torch.Generator().manual_seed(seed).get_state()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Replace torch's global stream with that of the environments, and restore it afterwards."""
        kept, kept_cuda = torch.get_rng_state(), _cuda_state()
        torch.set_rng_state(self._state)
        changes = _changes.get()
        before = self._look() if changes is not None else {}
        try:
            yield
        finally:
            if changes is not None:
                changes.update(name for name, state in self._look().items() if state != before[name])
            self._state = torch.get_rng_state()
            torch.set_rng_state(kept)
            if kept_cuda is not None:  # torch.manual_seed seeds it as well
                torch.cuda.set_rng_state(kept_cuda)

    def _look(self) -> dict[str, object]:
        """Return the states of all global streams by library name."""
        state = torch.initial_seed() if self._draws_from_torch else torch.get_rng_state().numpy().tobytes()
        kind, keys, position, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - only looked at
        return {
            "torch": state,
            "numpy": (kind, np.asarray(keys).tobytes(), position, *rest),
            "random": random.getstate(),
        }


@contextmanager
def noticing_changes() -> Iterator[set[str]]:
    """Yield a set that collects the libraries whose global random numbers an environment changes meanwhile.

    Changes in other processes go unnoticed.
    """
    changes: set[str] = set()
    token = _changes.set(changes)
    try:
        yield changes
    finally:
        _changes.reset(token)


def _cuda_state() -> torch.Tensor | None:
    return torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
