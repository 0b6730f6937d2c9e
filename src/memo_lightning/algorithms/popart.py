"""Running statistics of value targets, one pair per discount (PopArt: van Hasselt et al. 2016, arXiv 1602.07714).

TorchRL's ``PopArtValueNorm`` keeps such statistics, but does not rescale the network that predicts the values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class PopArt(nn.Module):
    """Running mean and standard deviation of targets.

    The first updates count equally; later, about the last ``1 / rate`` updates count.

    Args:
        n_discounts: number of discounts G.
        rate: weight of the newest targets.

    Attributes:
        mean: mean of the targets, ``[G]``.
        deviation: standard deviation of the targets, ``[G]``.
    """

    mean: Tensor
    mean_square: Tensor
    n_updates: Tensor
    _LEAST = 1e-4  # smallest deviation

    def __init__(self, n_discounts: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        # In float64, as the variance is a small difference of large numbers.
        self.register_buffer("mean", torch.zeros(n_discounts, dtype=torch.float64))
        self.register_buffer("mean_square", torch.ones(n_discounts, dtype=torch.float64))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of the targets, ``[G]``."""
        return (self.mean_square - self.mean.square()).clamp(min=self._LEAST**2).sqrt()

    def normalize(self, values: Tensor) -> Tensor:
        """Return values ``[.., G]`` in units of rewards, normalised by the statistics."""
        return ((values - self.mean) / self.deviation).to(values.dtype)

    def denormalize(self, values: Tensor) -> Tensor:
        """Return normalised values ``[.., G]`` in units of rewards."""
        return (values * self.deviation + self.mean).to(values.dtype)

    @torch.no_grad()
    def update(self, targets: Tensor, over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Update the statistics with the targets ``[N, G]`` of this rank and those of the others.

        Targets that are not finite do not count: their update is skipped, and the statistics must outlive it.
        """
        finite = targets.isfinite().all(1, keepdim=True)
        targets = targets.double().where(finite, 0.0)
        counted = finite.double().expand_as(targets)
        total, of_squares, count = over_ranks(torch.stack([targets.sum(0), targets.square().sum(0), counted.sum(0)]))
        if not count.any():
            return
        self.n_updates += 1
        rate = max(self.rate, 1.0 / int(self.n_updates))
        self.mean.lerp_(total / count, rate)
        self.mean_square.lerp_(of_squares / count, rate)
