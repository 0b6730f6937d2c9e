"""Advantages of whole sequences: TorchRL's GAE, cut at ends and bootstrapped where a limit cut an episode off."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.objectives.value.functional import generalized_advantage_estimate

from memo_lightning.algorithms.returns import return_ends
from memo_lightning.data.collector import FINAL_VALUE
from memo_lightning.envs.reports import TRUNCATED


def add_advantages(
    steps: TensorDictBase,
    last_value: Tensor,
    gamma: float,
    gae_lambda: float,
    *,
    cross_episodes: bool = False,
    reward_scale: Tensor | float = 1.0,
) -> None:
    """Add ``advantage`` and ``value_target [B, T, 1]`` to a rollout, in place.

    The value after a step is the value of the next step of its sequence, which acting has already computed. Returns end
    with the episode, even within a trial. With ``cross_episodes`` they end only with the trial, so that what is learned
    in one episode is credited with the rewards of later ones. Where a limit cut an episode off, the value of the
    observation that ended it (``final_value``) stands for what would have followed.

    Args:
        steps: rollout ``[B, T]`` with ``state_value`` and next ``reward``, ``episode_end``, ``done`` and, if episodes
            can be cut off, ``episode_truncated`` and ``final_value``.
        last_value: value ``[B, 1]`` of the observation after each sequence; it has no effect where a trial ended.
        gamma: discount per step.
        gae_lambda: the lambda of GAE (Schulman et al. 2016, arXiv 1506.02438).
        cross_episodes: let returns cross the episodes of a trial.
        reward_scale: rewards are multiplied by this; values and value targets are in the scaled units.
    """
    values, after = steps.get("state_value"), steps.get("next")
    end = return_ends(after, cross_episodes=cross_episodes)
    next_values = torch.cat([values[:, 1:], last_value.unsqueeze(1)], dim=1)
    terminated = end
    if TRUNCATED in after.keys():
        cut_off = end & after.get(TRUNCATED)
        next_values = torch.where(cut_off, after.get(FINAL_VALUE), next_values)
        terminated = end & ~cut_off
    advantage, value_target = generalized_advantage_estimate(
        gamma=gamma,
        lmbda=gae_lambda,
        state_value=values,
        next_state_value=next_values,
        reward=after.get("reward") * reward_scale,
        done=end,
        terminated=terminated,
    )
    steps.set("advantage", advantage)
    steps.set("value_target", value_target)
