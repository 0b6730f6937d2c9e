"""Exploration by continuous actions whose noise is correlated from step to step."""

from __future__ import annotations

import torch
from torch import Tensor
from torchrl.modules import TanhNormal


class CorrelatedNoise:
    """Draws actions of a squashed normal distribution with first-order autoregressive noise, one stream an environment.

    Every action has the distribution that the policy gives it; only successive ones are no longer independent. White
    noise averages out where an action acts through a velocity, and never leaves the neighbourhood of the start. The
    log-probability stays that of a single action (Hollenstein et al. 2024, arXiv 2312.11091).

    Args:
        correlation: of the noise of two successive steps, from 0 to below 1.
    """

    def __init__(self, correlation: float) -> None:
        self.correlation = correlation
        self._noise: Tensor | None = None

    def sample(self, distribution: TanhNormal, starts: Tensor) -> Tensor:
        """Return actions ``[N, A]``; where ``starts [N]`` is true the noise begins anew."""
        fresh = torch.randn_like(distribution.base_dist.mean)
        noise = fresh
        if self._noise is not None and self._noise.shape == fresh.shape:
            following = self.correlation * self._noise + (1 - self.correlation**2) ** 0.5 * fresh
            noise = torch.where(starts.unsqueeze(-1), fresh, following)
        self._noise = noise
        action = distribution.base_dist.mean + distribution.base_dist.stddev * noise
        for transform in distribution.transforms:
            action = transform(action)
        return action
