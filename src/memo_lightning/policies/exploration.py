"""Drawing actions: with random numbers of one's own, and with noise that is correlated from step to step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution
from torchrl.modules import TanhNormal

from memo_lightning.policies.multi_categorical import MultiCategorical


def seeded_generator(device: torch.device, seed: int | None) -> torch.Generator:
    """Return random numbers of one's own; without a seed other ones every time."""
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def draw(distribution: Distribution, generator: torch.Generator | Sequence[torch.Generator]) -> Tensor:
    """Return actions ``[N, ...]`` of a policy's distribution, drawn with ``generator``.

    Distributions of torch and TorchRL draw from torch's global random numbers only.

    Args:
        distribution: of N actions.
        generator: of all of them; or N of them, one each, which draw what they would draw for one action alone.
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
    """Return the actions ``[N, A]`` that standard normal noise ``[N, A]`` stands for."""
    action = distribution.base_dist.mean + distribution.base_dist.stddev * noise
    for transform in distribution.transforms:
        action = transform(action)
    return action


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
        return _squashed(distribution, noise)
