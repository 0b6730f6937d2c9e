"""Action sampling: with a separate random generator, and with noise that is correlated over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution
from torchrl.modules import TanhNormal

from memo_lightning.policies.multi_categorical import MultiCategorical


def seeded_generator(device: torch.device, seed: int | None) -> torch.Generator:
    """Return a new random generator; without a seed its numbers differ every time."""
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def draw(distribution: Distribution, generator: torch.Generator | Sequence[torch.Generator]) -> Tensor:
    """Sample actions ``[N, ...]`` from a policy's distribution with ``generator``.

    The distributions of torch and TorchRL can only sample with torch's global generator.

    Args:
        distribution: distribution of N actions.
        generator: one generator for all actions, or N generators, one per action. With one per action, each action
            is the same as if it were sampled alone.
    """
    if isinstance(distribution, MultiCategorical):
        return torch.stack([draw(part, generator) for part in distribution.parts], -1)
    if isinstance(distribution, TanhNormal):
        mean = distribution.base_dist.mean
        return _squashed(distribution, _noise(mean, Tensor.normal_, generator))
    logits: Tensor = distribution.logits  # type: ignore[attr-defined]
    return (logits - _noise(logits, Tensor.exponential_, generator).log()).argmax(-1)  # Gumbel-max trick


def _noise(like: Tensor, fill: Callable[..., object], generator: torch.Generator | Sequence[torch.Generator]) -> Tensor:
    noise = torch.empty_like(like)
    if isinstance(generator, torch.Generator):
        fill(noise, generator=generator)
    else:
        for row, own in zip(noise.split(1), generator, strict=True):
            fill(row, generator=own)
    return noise


def _squashed(distribution: TanhNormal, noise: Tensor) -> Tensor:
    """Return the actions ``[N, A]`` that standard normal noise ``[N, A]`` is mapped to."""
    action = distribution.base_dist.mean + distribution.base_dist.stddev * noise
    for transform in distribution.transforms:
        action = transform(action)
    return action


class CorrelatedNoise:
    """A sampler for squashed normal distributions, with first-order autoregressive noise for each environment.

    Each action still follows the policy's distribution; only successive actions are no longer independent. White
    noise averages out where actions act through a velocity, and never leaves the neighbourhood of the start. The
    log-probability remains that of a single action (Hollenstein et al. 2024, arXiv 2312.11091).

    Args:
        correlation: correlation between the noise of successive steps, from 0 to below 1.
    """

    def __init__(self, correlation: float) -> None:
        self.correlation = correlation
        self._noise: Tensor | None = None

    def sample(self, distribution: TanhNormal, starts: Tensor) -> Tensor:
        """Sample actions ``[N, A]``; the noise restarts where ``starts [N]`` is true."""
        fresh = torch.randn_like(distribution.base_dist.mean)
        noise = fresh
        if self._noise is not None and self._noise.shape == fresh.shape:
            following = self.correlation * self._noise + (1 - self.correlation**2) ** 0.5 * fresh
            noise = torch.where(starts.unsqueeze(-1), fresh, following)
        self._noise = noise
        return _squashed(distribution, noise)
