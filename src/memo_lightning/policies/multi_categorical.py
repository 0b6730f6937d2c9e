"""A distribution over several discrete actions that are independent given the observation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints
from torchrl.modules import MaskedCategorical


class MultiCategorical(Distribution):
    """A product of independent categorical distributions, each with its own number of values.

    Args:
        logits: ``[*batch, sum(n_values)]``, one component after another.
        n_values: number of values of each of the k components.
        mask: bool ``[*batch, sum(n_values)]``, true where a value is allowed; None allows all.

    Attributes:
        parts: the distribution of each component.
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012 - torch's own declaration

    def __init__(self, logits: Tensor, n_values: Sequence[int], mask: Tensor | None = None) -> None:
        parts = logits.split(list(n_values), -1)
        self.parts: list[Categorical] = []
        if mask is None:
            self.parts = [Categorical(logits=part, validate_args=False) for part in parts]
        else:
            masks = mask.split(list(n_values), -1)
            self.parts = [MaskedCategorical(logits=p, mask=m) for p, m in zip(parts, masks, strict=True)]
        super().__init__(logits.shape[:-1], torch.Size([len(n_values)]), validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return samples, int64 ``[*sample_shape, *batch, k]``."""
        return torch.stack([part.sample(torch.Size(sample_shape)) for part in self.parts], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log-probabilities ``[*batch]`` of ``value [*batch, k]``."""
        return torch.stack([p.log_prob(v) for p, v in zip(self.parts, value.unbind(-1), strict=True)]).sum(0)

    def entropy(self) -> Tensor:
        """Return entropies ``[*batch]``."""
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    @property
    def probs(self) -> Tensor:
        """The probability of every value, ``[*batch, sum(n_values)]``, one component after another."""
        return torch.cat([part.probs for part in self.parts], -1)

    @property
    def mode(self) -> Tensor:
        """The most likely values ``[*batch, k]``."""
        return torch.stack([part.logits.argmax(-1) for part in self.parts], -1)

    @property
    def deterministic_sample(self) -> Tensor:
        """The mode, under the name that TorchRL uses when it does not explore."""
        return self.mode
