"""RL^2 inputs: the agent's last action, its reward, and whether an episode ended (arXiv 1611.02779)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from memo_lightning.policies.action import Action

PREVIOUS_STEP = "previous_step"


def previous_step_size(action: Action, *, with_reward: bool) -> int:
    """Return the width of the output of :func:`encode_previous_step`."""
    return (sum(action.n_values) or action.shape[0]) + with_reward + 1


def encode_previous_step(
    action: Action, taken: Tensor, reward: Tensor, episode_end: Tensor, *, with_reward: bool
) -> Tensor:
    """Return ``[*batch, A + 2]``: the last action, reward and end of episode; ``[*batch, A + 1]`` without the reward.

    A discrete action is one-hot, and A its number of values. Several are one-hot, one after another. A continuous
    action of size A is used as it is.

    Args:
        action: the kind of action.
        taken: the last action, as stored, ``[*batch]`` or ``[*batch, k]``.
        reward: ``[*batch, 1]``.
        episode_end: bool ``[*batch, 1]``.
        with_reward: whether to include the reward.
    """
    parts = [encode_action(action, taken), *([reward] if with_reward else []), episode_end]
    return torch.cat([part.to(torch.float32) for part in parts], -1)


def as_if_the_episode_went_on(previous_step: Tensor) -> Tensor:
    """Return ``previous_step`` without the end of the episode, for a step at which a limit cut the episode off."""
    return torch.cat([previous_step[..., :-1], torch.zeros_like(previous_step[..., -1:])], -1)


def encode_action(action: Action, taken: Tensor) -> Tensor:
    """Encode actions as vectors ``[*batch, A]``: discrete ones as one-hot vectors, one after another.

    Args:
        action: the kind of action.
        taken: actions as stored, ``[*batch]`` or ``[*batch, k]``.
    """
    sizes = action.n_values
    if not sizes:
        return taken
    if not action.shape:
        return one_hot(taken, sizes[0])
    return torch.cat([one_hot(part, n) for part, n in zip(taken.unbind(-1), sizes, strict=True)], -1)
