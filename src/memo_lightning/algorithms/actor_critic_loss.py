"""The off-policy objective on sequences: one pass of the trunk, with online and target heads on its outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.distributions import Distribution

from memo_lightning.algorithms.critics import Critics
from memo_lightning.algorithms.popart import PopArt
from memo_lightning.algorithms.returns import return_ends
from memo_lightning.data.trial_cutting import VALID
from memo_lightning.envs.reports import TRUNCATED
from memo_lightning.policies import MemoryPolicy

_LEAST_LOG_PROB = -20.0  # of a cloned action; rarer actions would outweigh all others


@dataclass(frozen=True)
class Losses:
    """The losses of an update, detached except for ``total``.

    Attributes:
        total: the loss to minimise, a scalar with gradient.
        critic: critic loss of each discount, ``[G]``.
        actor: minus the normalised value of the actor's own choice.
        clone: minus the log-probability of actions that were better than the actor's choice.
        cloned_fraction: fraction of the actions that were better.
        errors: mean absolute error of each trial under the main discount, normalised, ``[n]``.
    """

    total: Tensor
    critic: Tensor
    actor: Tensor
    clone: Tensor
    cloned_fraction: Tensor
    errors: Tensor


class ActorCriticLoss(nn.Module):
    """Temporal-difference learning of an ensemble of critics, and an actor that follows them.

    Targets are computed for several discounts at once. A target is the reward plus the discounted value of the target
    actor's choice in the next state. That value is the minimum over a few target critics, drawn anew every time (REDQ:
    Chen et al. 2021, arXiv 2101.05982). The actor maximises the critics' value of its own distribution under the main
    discount, and clones actions that were worth more (filtered behaviour cloning: Wang et al. 2020, arXiv 2006.15134).
    There is no entropy term. The objective is that of AMAGO (Grigsby et al. 2024, arXiv 2310.09971).

    Args:
        policy: the policy, whose actor learns.
        discounts: the G discounts, the main one first.
        n_critics: number of critics E.
        n_minimum: number of target critics over which the minimum is taken.
        width: width of the critics' hidden layer.
        critic_coef: weight of the critics' squared errors.
        clone_coef: weight of behaviour cloning.
        popart_rate: weight of the newest targets in their running statistics; see :class:`PopArt`.
        cross_episodes: let returns cross the episodes of a trial.
    """

    discounts: Tensor

    def __init__(
        self,
        policy: MemoryPolicy,
        *,
        discounts: Sequence[float],
        n_critics: int,
        n_minimum: int,
        width: int,
        critic_coef: float,
        clone_coef: float,
        popart_rate: float,
        cross_episodes: bool,
    ) -> None:
        super().__init__()
        self.register_buffer("discounts", torch.tensor(discounts), persistent=False)
        self.n_minimum, self.cross_episodes = n_minimum, cross_episodes
        self.critic_coef, self.clone_coef = critic_coef, clone_coef
        self.critics = Critics(
            policy.sequence_model.d_model,
            policy.heads.action,
            n_critics=n_critics,
            n_discounts=len(discounts),
            width=width,
        )
        self.popart = PopArt(len(discounts), popart_rate)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.target_actor = copy.deepcopy(policy.actor).requires_grad_(False)

    def forward(
        self,
        policy: MemoryPolicy,
        hidden: Tensor,
        trials: TensorDictBase,
        weight: Tensor,
        *,
        reward_scale: Tensor | float = 1.0,
        generator: torch.Generator | None = None,
        over_ranks: Callable[[Tensor], Tensor] = lambda values: values,
    ) -> Losses:
        """Return the losses of a batch of trials.

        Args:
            policy: the policy.
            hidden: the trunk's outputs for the trials, ``[n, T + 1, D]`` with gradient.
            trials: ``[n, T + 1]``, as returned by :func:`~memo_lightning.data.trial_cutting.cut_into_trials`.
            weight: weight of each trial, ``[n]``.
            reward_scale: rewards are multiplied by this.
            generator: draws the critics over which the minimum is taken.
            over_ranks: averages a tensor over all ranks.
        """
        valid = trials.get(VALID)[:, :-1]
        read = trials.select("action", "next", *policy.head_keys)  # without the observations
        steps, following = read[:, :-1][valid], read[:, 1:][valid]  # (N)
        states, next_states = hidden[:, :-1][valid], hidden[:, 1:][valid].detach()  # (N, D)
        weight = weight.unsqueeze(1).expand(valid.shape)[valid]
        end, has_target = self._ends(steps)
        targets = self.targets(
            policy, next_states, following, steps.get(("next", "reward")) * reward_scale, end, generator
        )
        self._update_statistics(targets[has_target], over_ranks)
        targets = self.popart.normalize(targets)

        distribution = policy.actor.get_dist(policy.head_inputs(states, steps))
        action = steps.get("action")
        of_taken, of_chosen = self.critics.of_taken_and_chosen(
            states, self.critics.as_vector(action), self._choice(distribution)
        )
        error = of_taken - targets  # (E, N, G)
        counts = (weight * has_target).unsqueeze(-1)
        critic = (error.square().mean(0) * counts).sum(0) / counts.sum().clamp(min=1e-8)  # (G)

        value = of_chosen[..., 0].mean(0)  # (N)
        is_better = of_taken.detach()[..., 0].mean(0) > value.detach()
        log_prob = distribution.log_prob(action).clamp(min=_LEAST_LOG_PROB)
        actor = -(weight * value).sum() / weight.sum()
        clone = -(weight * is_better * log_prob).sum() / weight.sum()
        total = self.critic_coef * critic.mean() + actor + self.clone_coef * clone

        absolute = torch.zeros(valid.shape, device=hidden.device)
        absolute[valid] = error.detach()[..., 0].abs().mean(0) * has_target
        errors = absolute.sum(1) / valid.sum(1)
        return Losses(total, critic.detach(), actor.detach(), clone.detach(), is_better.float().mean(), errors)

    @torch.no_grad()
    def targets(
        self,
        policy: MemoryPolicy,
        next_states: Tensor,
        following: TensorDictBase,
        reward: Tensor,
        end: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the value targets ``[N, G]`` in units of rewards.

        Args:
            policy: the policy.
            next_states: outputs of the trunk ``[N, D]`` after the steps.
            following: the steps after them ``[N]``, for the actions that are allowed there.
            reward: rewards ``[N, 1]``.
            end: bool ``[N, 1]``, true where nothing follows.
            generator: draws the critics over which the minimum is taken.
        """
        distribution = self.target_actor.get_dist(policy.head_inputs(next_states, following))
        values = self.target_critics(next_states, self._choice(distribution))  # (E, N, G)
        drawn = torch.randperm(len(values), generator=generator)[: self.n_minimum].to(values.device)
        least = self.popart.denormalize(values[drawn].min(0).values)
        return reward + self.discounts * ~end * least

    @torch.no_grad()
    def follow(self, policy: MemoryPolicy, tau: float) -> None:
        """Move the target heads a fraction ``tau`` of the way to the online heads."""
        for target, online in ((self.target_critics, self.critics), (self.target_actor, policy.actor)):
            torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)

    def _ends(self, steps: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return where nothing follows, bool ``[N, 1]``, and where what follows is known, bool ``[N]``.

        If a limit cuts an episode off within a trial, what follows is the next episode, whose value does not count.
        """
        after = steps.get("next")
        done, cut_off = after.get("done"), after.get(TRUNCATED)
        end = return_ends(after, cross_episodes=self.cross_episodes)
        unknown = cut_off & end & ~done
        return end & ~cut_off, ~unknown.squeeze(-1)

    def _update_statistics(self, targets: Tensor, over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Update the statistics with targets ``[N, G]``; the values that the critics stand for stay the same."""
        old = self.popart.mean.clone(), self.popart.deviation
        self.popart.update(targets, over_ranks)
        for critics in (self.critics, self.target_critics):
            critics.rescale(*old, self.popart.mean, self.popart.deviation)

    def _choice(self, distribution: Distribution) -> Tensor:
        """Return a distribution's choice as vectors ``[N, A]``: probabilities of discrete actions, or a sample."""
        if self.critics.is_continuous:
            return self.critics.as_vector(distribution.rsample())
        return distribution.probs  # type: ignore[attr-defined]
