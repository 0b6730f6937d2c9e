"""Advantages of whole rows: TorchRL's GAE, cut where the return must not cross."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.objectives.value.functional import generalized_advantage_estimate


def add_advantages(
    rows: TensorDictBase,
    last_value: Tensor,
    gamma: float,
    gae_lambda: float,
    *,
    cross_episodes: bool = False,
    reward_scale: float = 1.0,
) -> None:
    """Add ``advantage`` and ``value_target [B, T, 1]`` to a rollout, in place.

    The value of a step's successor is the value of the next step of its row, which acting has computed
    already. Returns end where an episode ends, also within a trial, unless ``cross_episodes`` is set: then they
    end with the trial only, and what an episode teaches is worth what it earns in later ones.

    Args:
        rows: rollout ``[B, T]`` with ``state_value`` and next ``reward``, ``episode_end`` and ``done``.
        last_value: value ``[B, 1]`` of the observation that follows each row.
        gamma: discount per step.
        gae_lambda: the lambda of GAE (Schulman et al. 2016, arXiv 1506.02438).
        cross_episodes: let returns cross the episodes of a trial.
        reward_scale: rewards count this much; values and value targets are in these units.
    """
    values = rows.get("state_value")
    end = rows.get(("next", "done"))
    if not cross_episodes:
        end = end | rows.get(("next", "episode_end"))
    advantage, value_target = generalized_advantage_estimate(
        gamma=gamma,
        lmbda=gae_lambda,
        state_value=values,
        next_state_value=torch.cat([values[:, 1:], last_value.unsqueeze(1)], dim=1),
        reward=rows.get(("next", "reward")) * reward_scale,
        done=end,
        terminated=end,
    )
    rows.set("advantage", advantage)
    rows.set("value_target", value_target)
