"""RL^2 inputs: what the agent did last, what it got for it, and whether an episode ended (arXiv 1611.02779)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from memo_lightning.policies.action import Action

PREVIOUS_STEP = "previous_step"


def previous_step_size(action: Action, *, with_reward: bool) -> int:
    """Return the width of what :func:`encode_previous_step` returns."""
    return (sum(action.n_values) or action.shape[0]) + with_reward + 1


def encode_previous_step(
    action: Action, taken: Tensor, reward: Tensor, episode_end: Tensor, *, with_reward: bool
) -> Tensor:
    """Return ``[*batch, A + 2]``: the last action, reward and end of episode; without the reward ``[*batch, A + 1]``.

    A discrete action is one-hot, A its number of values; several are one-hot one after another; a continuous one is
    taken as it is, A its size.

    Args:
        action: the kind of action.
        taken: the last action, as stored, ``[*batch]`` or ``[*batch, k]``.
        reward: ``[*batch, 1]``.
        episode_end: bool ``[*batch, 1]``.
        with_reward: whether the reward is among them.
    """
    parts = [encode_action(action, taken), *([reward] if with_reward else []), episode_end]
    return torch.cat([part.to(torch.float32) for part in parts], -1)


def as_if_the_episode_went_on(previous_step: Tensor) -> Tensor:
    """Return ``previous_step`` of a step whose episode a limit has cut off, without the end of the episode."""
    return torch.cat([previous_step[..., :-1], torch.zeros_like(previous_step[..., -1:])], -1)


def encode_action(action: Action, taken: Tensor) -> Tensor:
    """Return actions as vectors ``[*batch, A]``: one-hot, one after another, where they are discrete.

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
