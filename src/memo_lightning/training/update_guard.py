"""Handling of updates whose loss or gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from memo_lightning.errors import TrainingStopped


class UpdateGuard:
    """Counter of skipped updates, which ends the run when too many come in a row.

    A skipped update changes no weights, so the last checkpoint stays valid.

    Args:
        limit: the number of skipped updates in a row at which the run ends.

    Attributes:
        skipped: updates skipped so far.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.skipped = 0
        self._in_a_row = 0

    def state_dict(self) -> dict[str, int]:
        """Return the counts, so that the run can be resumed."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the counts."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def count(self, finite: bool, module: nn.Module, loss: Tensor, inputs: Mapping[str, TensorDictBase]) -> None:
        """Record whether an update was ``finite``; all ranks must agree on this.

        Args:
            finite: whether the update can be made.
            module: the module that is trained, with the gradients of the update.
            loss: the loss of the update.
            inputs: the data from which the loss was computed, by kind.

        Raises:
            TrainingStopped: if too many updates in a row were not; the message names the first non-finite tensor.
        """
        if finite:
            self._in_a_row = 0
            return
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= self.limit:
            bad = next(_non_finite(module, loss, inputs), "none on this rank, but one on another rank")
            raise TrainingStopped(
                f"{self._in_a_row} updates in a row had a non-finite loss or gradient; first non-finite tensor: {bad}"
            )


def _non_finite(module: nn.Module, loss: Tensor, inputs: Mapping[str, TensorDictBase]) -> Iterator[str]:
    """Yield the names of tensors that are not finite, causes before effects."""
    tensors = {
        "weight": module.named_parameters(),
        **{kind: ((_name(key), value) for key, value in given.items(True, True)) for kind, given in inputs.items()},
        "loss": [("total", loss)],
        "gradient of": ((name, parameter.grad) for name, parameter in module.named_parameters()),
    }
    for kind, named in tensors.items():
        for name, tensor in named:
            if tensor is not None and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                yield f"{kind} {name}"


def _name(key: str | tuple[str, ...]) -> str:
    return key if isinstance(key, str) else "/".join(key)
