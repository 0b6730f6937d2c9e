"""What to do with an update whose loss or gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from memo_lightning.errors import TrainingStopped


class UpdateGuard:
    """Counts updates that must be skipped, and ends the run when too many come in a row.

    A skipped update changes no weight, so the last checkpoint stays a good one.

    Args:
        limit: how many updates in a row may be skipped; the run ends with the last of them.

    Attributes:
        skipped: updates skipped so far.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.skipped = 0
        self._in_a_row = 0

    def state_dict(self) -> dict[str, int]:
        """Return the counts, for a run that is resumed."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue counting from there."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def count(self, finite: bool, module: nn.Module, loss: Tensor, inputs: Mapping[str, TensorDictBase]) -> None:
        """Note whether an update was ``finite``, on which all ranks must agree.

        Args:
            finite: whether the update can be made.
            module: what is trained, with the update's gradients.
            loss: the update's loss.
            inputs: what the loss was computed on, by kind.

        Raises:
            TrainingStopped: if it is one too many; the message names the first tensor that is not finite.
        """
        if finite:
            self._in_a_row = 0
            return
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= self.limit:
            bad = next(_non_finite(module, loss, inputs), "none on this rank, another has it")
            raise TrainingStopped(
                f"{self._in_a_row} updates in a row had a loss or gradient that is not finite; first such tensor: {bad}"
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
