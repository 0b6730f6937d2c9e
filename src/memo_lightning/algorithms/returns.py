"""Returns: where they end, and the running statistics that normalise rewards by them."""

from __future__ import annotations

from tensordict import TensorDictBase
from torch import Tensor

from memo_lightning.algorithms.base import TrainingRun
from memo_lightning.policies import MemoryPolicy


def return_ends(after: TensorDictBase, *, cross_episodes: bool) -> Tensor:
    """Return where returns end, bool ``[..., 1]``: with the trial and, unless they cross episodes, with the episode.

    Args:
        after: what followed the steps, with ``done`` and ``episode_end [..., 1]``.
        cross_episodes: let returns cross the episodes of a trial.
    """
    done: Tensor = after.get("done")
    return done if cross_episodes else done | after.get("episode_end")


def update_normalizer(run: TrainingRun, rollout: TensorDictBase, gamma: float, *, cross_episodes: bool) -> None:
    """Update the policy's running statistics, if it has any, with the rollouts ``[B, T]`` of all ranks.

    Args:
        run: the run, with its policy.
        rollout: the complete rollout of this rank.
        gamma: discount per step of the return that rewards are normalised by.
        cross_episodes: let returns cross the episodes of a trial.
    """
    if run.policy.normalizer is not None:
        after = rollout.get("next")
        end = return_ends(after, cross_episodes=cross_episodes)
        run.policy.normalizer.update(rollout, after.get("reward"), end, gamma, run.sum_over_ranks)


def normalized_reward_scale(policy: MemoryPolicy) -> Tensor | float:
    """Return the factor by which the policy's statistics normalise rewards; 1 if they do not."""
    if policy.normalizer is None or policy.normalizer.returns is None:
        return 1.0
    return policy.normalizer.reward_scale.float()
