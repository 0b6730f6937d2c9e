"""Sampling trials by priority, as a sampler of TorchRL's buffer.

TorchRL's ``PrioritizedSampler`` needs its compiled extension, which does not load with every build of torch. Its trees
pay off with millions of steps; trials are thousands.
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
    """Samples in proportion to a power of priorities (Schaul et al. 2016, arXiv 1511.05952), with replacement.

    What is new has the largest priority that there has been.

    Args:
        capacity: of the storage.
        alpha: the power.
        beta: ``priority_weight`` is the inverse of the probability to this power, the largest being one.
    """

    def __init__(self, capacity: int, alpha: float, beta: float) -> None:
        self.alpha, self.beta = alpha, beta
        self._priorities = torch.zeros(capacity, dtype=torch.float64)
        self._largest = 0.0

    @property
    def default_priority(self) -> float:
        """The priority of what is new."""
        return self._largest or 1.0

    def add(self, index: Tensor | int) -> None:
        """Take in what is new."""
        self._priorities[index] = self.default_priority

    def extend(self, index: Tensor) -> None:
        """Take in what is new."""
        self.add(index)

    def update_priority(self, index: Any, priority: Any, *, storage: Storage | None = None) -> None:
        """Set priorities; they must be positive to be sampled again."""
        values = torch.as_tensor(priority, dtype=torch.float64) + 1e-8
        self._priorities[index] = values
        self._largest = max(self._largest, float(values.max()))

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return indices ``[batch_size]`` and their weights."""
        chance = self._priorities[: len(storage)] ** self.alpha
        index = torch.multinomial(chance, batch_size, replacement=True)
        weight = (chance.min() / chance[index]) ** self.beta
        return index, {"priority_weight": weight.float()}

    def state_dict(self) -> dict[str, Any]:
        """Return the priorities."""
        return {"priorities": self._priorities.clone(), "largest": self._largest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._priorities.copy_(state_dict["priorities"])
        self._largest = state_dict["largest"]

    def dumps(self, path: Path) -> None:
        """Write the priorities into a folder."""
        state = {"priorities": self._priorities.tolist(), "largest": self._largest}
        (Path(path) / "priorities.json").write_text(json.dumps(state))

    def loads(self, path: Path) -> None:
        """Read them."""
        state = json.loads((Path(path) / "priorities.json").read_text())
        self.load_state_dict({**state, "priorities": torch.tensor(state["priorities"], dtype=torch.float64)})

    def _empty(self) -> None:
        self._priorities.zero_()
        self._largest = 0.0
