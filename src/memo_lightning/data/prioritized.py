"""Prioritized sampling of trials, as a sampler for TorchRL's buffer.

TorchRL's ``PrioritizedSampler`` needs its compiled extension, which does not load with every build of torch. Its trees
pay off with millions of steps; here there are only thousands of trials.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchrl.data.replay_buffers import Storage
from torchrl.data.replay_buffers.samplers import Sampler


class PrioritizedTrials(Sampler):
    """Sampler with replacement, in proportion to a power of the priorities (Schaul et al. 2016, arXiv 1511.05952).

    New trials get the largest priority seen so far.

    Args:
        capacity: capacity of the storage.
        alpha: exponent of the priorities.
        beta: exponent of the weights ``priority_weight``, which are inverse probabilities scaled to at most one.
    """

    def __init__(self, capacity: int, alpha: float, beta: float) -> None:
        self.alpha, self.beta = alpha, beta
        self._priorities = torch.zeros(capacity, dtype=torch.float64)
        self._largest = 0.0

    @property
    def default_priority(self) -> float:
        """The priority of new trials."""
        return self._largest or 1.0

    def add(self, index: Tensor | int) -> None:
        """Give a new trial its priority."""
        self._priorities[index] = self.default_priority

    def extend(self, index: Tensor) -> None:
        """Give new trials their priority."""
        self.add(index)

    def update_priority(self, index: Any, priority: Any, *, storage: Storage | None = None) -> None:
        """Set priorities, plus a small constant, so that a trial of priority zero can be sampled again.

        Priorities that are not finite, of an update that is skipped, become that of a new trial.
        """
        values = torch.as_tensor(priority, dtype=torch.float64) + 1e-8
        finite = values.isfinite()
        self._largest = max([self._largest, *values[finite].tolist()])
        self._priorities[index] = values.where(finite, self.default_priority)

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Sample indices ``[batch_size]``, and return them with their weights."""
        chance = self._priorities[: len(storage)] ** self.alpha
        index = torch.multinomial(chance, batch_size, replacement=True)
        weight = (chance.min() / chance[index]) ** self.beta
        return index, {"priority_weight": weight.float()}

    def state_dict(self) -> dict[str, Any]:
        """Return the priorities."""
        return {"priorities": self._priorities.clone(), "largest": self._largest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the priorities."""
        self._priorities.copy_(state_dict["priorities"])
        self._largest = state_dict["largest"]

    def dumps(self, path: Path) -> None:
        """Write the priorities into a folder."""
        state = {"priorities": self._priorities.tolist(), "largest": self._largest}
        (Path(path) / "priorities.json").write_text(json.dumps(state))

    def loads(self, path: Path) -> None:
        """Read the priorities from a folder."""
        state = json.loads((Path(path) / "priorities.json").read_text())
        self.load_state_dict({**state, "priorities": torch.tensor(state["priorities"], dtype=torch.float64)})

    def _empty(self) -> None:
        self._priorities.zero_()
        self._largest = 0.0
