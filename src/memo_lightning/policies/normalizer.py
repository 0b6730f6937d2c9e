"""Running statistics of observations and rewards, which are part of the policy.

They are buffers of the policy, so they travel with its weights: to worker processes, into checkpoints, to other ranks.
They change only between rollouts, so that a rollout and the update that learns from it use the same statistics.
TorchRL's ``VecNorm``, by contrast, is a transform of one environment: its statistics change during a rollout, and
differ between workers and ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from memo_lightning.policies.encoders import OBSERVATION
from memo_lightning.policies.previous_step import PREVIOUS_STEP

Sum = Callable[[Tensor], Tensor]
"""Adds up a tensor over all ranks."""

_ROUNDING = 1e-6  # relative; smaller differences are lost in float32
_LIMIT = 10.0  # standard deviations; values beyond it are clipped


class RunningMoments(nn.Module):
    """Mean and variance of all values seen so far (Chan et al. 1979), in float64.

    Args:
        size: number of quantities.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))  # sum of squared deviations

    def update(self, values: Tensor, over_ranks: Sum) -> None:
        """Add the ``values [n, size]`` of this rank, and those that the other ranks add in the same call."""
        values = values.to(torch.float64)
        count = over_ranks(torch.full_like(self.count, len(values)))
        mean = over_ranks(values.sum(0)) / count
        squares = over_ranks((values - mean).square().sum(0))
        total, difference = self.count + count, mean - self.mean
        self.squares += squares + difference.square() * self.count * count / total
        self.mean += difference * count / total
        self.count.copy_(total)

    @property
    def deviation(self) -> Tensor:
        """The standard deviation ``[size]``; one where nothing was seen yet, or all values were equal."""
        variance = self.squares / self.count.clamp(min=1)
        return torch.where(variance > (_ROUNDING * self.mean).square(), variance, 1.0).sqrt()


class Normalizer(nn.Module):
    """Normalisation of a policy's inputs, and of the rewards that an algorithm learns from.

    Vectors are shifted to zero mean and scaled to unit variance. Rewards, including the one among the RL^2 inputs, are
    divided by the running standard deviation of the discounted return. They are not shifted, which would change the
    task.

    Args:
        sizes: width of each observation key that is a vector; empty to leave observations unchanged.
        rewards: whether to scale rewards.
        observes_reward: whether the RL^2 inputs include the last reward.
    """

    def __init__(self, sizes: Mapping[str, int], *, rewards: bool, observes_reward: bool) -> None:
        super().__init__()
        self._keys, self._sizes = list(sizes), list(sizes.values())
        self._observes_reward = observes_reward
        self.observations = RunningMoments(sum(self._sizes)) if sizes else None
        self.returns = RunningMoments(1) if rewards else None

    def forward(self, inputs: TensorDictBase) -> TensorDictBase:
        """Return normalised policy inputs ``[*batch]`` in new tensors; the given ones are not changed."""
        inputs = inputs.copy()
        if self.observations is not None:
            means, deviations = (
                moments.float().split(self._sizes) for moments in (self.observations.mean, self.observations.deviation)
            )
            for key, mean, deviation in zip(self._keys, means, deviations, strict=True):
                value = (inputs.get((OBSERVATION, key)) - mean) / deviation
                inputs.set((OBSERVATION, key), value.clamp(-_LIMIT, _LIMIT))
        if self.returns is not None and self._observes_reward and PREVIOUS_STEP in inputs.keys():
            previous = inputs.get(PREVIOUS_STEP).clone()
            previous[..., -2] *= self.reward_scale.float()
            inputs.set(PREVIOUS_STEP, previous)
        return inputs

    @property
    def reward_scale(self) -> Tensor:
        """The factor for rewards, a scalar."""
        assert self.returns is not None
        return 1.0 / self.returns.deviation[0]

    def update(self, inputs: TensorDictBase, reward: Tensor, end: Tensor, gamma: float, over_ranks: Sum) -> None:
        """Update the statistics with a rollout.

        Args:
            inputs: policy inputs ``[B, T]``.
            reward: rewards ``[B, T, 1]``.
            end: bool ``[B, T, 1]``, true at the last step of a return.
            gamma: discount per step.
            over_ranks: sums a tensor over all ranks.
        """
        if self.observations is not None:
            vectors = torch.cat([inputs.get((OBSERVATION, key)).flatten(0, 1).double() for key in self._keys], -1)
            self.observations.update(vectors, over_ranks)
        if self.returns is not None:
            running, returns = torch.zeros_like(reward[:, 0]), []
            for t in range(reward.shape[1]):
                running = running * gamma + reward[:, t]
                returns.append(running)
                running = running.masked_fill(end[:, t], 0.0)
            self.returns.update(torch.cat(returns), over_ranks)
