"""Observation encoders: the entries of one time step -> one vector of the sequence model's width."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.data import Composite

from memo_lightning.errors import UserError


class Encoder(nn.Module, ABC):
    """Maps the entries ``in_keys`` of a TensorDict to one vector per time step.

    Args:
        in_keys: entries to read.
    """

    def __init__(self, in_keys: Sequence[str]) -> None:
        super().__init__()
        self.in_keys = list(in_keys)

    @abstractmethod
    def forward(self, tensordict: TensorDictBase) -> Tensor:
        """Return ``[*batch, d_model]`` for a TensorDict of any batch size."""


class VectorEncoder(Encoder):
    """Concatenate vector entries and project them linearly.

    Args:
        observation_spec: what a policy may read, as :func:`~memo_lightning.envs.reports.observed_spec` returns it.
        d_model: width of the output.
        in_keys: entries to read, each ``[N, size]``.

    Raises:
        UserError: if an entry is missing or is not a vector.
    """

    def __init__(self, observation_spec: Composite, d_model: int, in_keys: Sequence[str]) -> None:
        super().__init__(observed_keys(observation_spec, in_keys))
        n_batch_dims = len(observation_spec.shape)
        size = 0
        for key in self.in_keys:
            shape = observation_spec[key].shape[n_batch_dims:]
            if len(shape) != 1:
                raise UserError(f"encoder.in_keys={self.in_keys}: {key!r} has shape {tuple(shape)}; must be a vector")
            size += shape[0]
        self.projection = nn.Linear(size, d_model)

    def forward(self, tensordict: TensorDictBase) -> Tensor:
        """Project the concatenated entries."""
        return self.projection(torch.cat([tensordict.get(key) for key in self.in_keys], -1))


def observed_keys(observation_spec: Composite, in_keys: Sequence[str] | None) -> list[str]:
    """Return the entries to read: ``in_keys``, or all there are.

    Raises:
        UserError: if the environment has no such entry, or none at all.
    """
    known = sorted(observation_spec.keys(), key=lambda key: (key == "previous_step", key))
    keys = known if in_keys is None else list(in_keys)
    if not keys:
        raise UserError(f"encoder.in_keys=[]: must name some of {', '.join(known) or 'its entries, and it has none'}")
    for key in keys:
        if key not in known:
            raise UserError(
                f"encoder.in_keys={keys}: the environment has no {key!r}; must be among {', '.join(sorted(known))}"
            )
    return keys
