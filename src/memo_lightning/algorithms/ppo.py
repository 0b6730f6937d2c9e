"""Proximal policy optimisation (arXiv 1707.06347) on whole rows, with TorchRL's clipped loss on the heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.objectives import ClipPPOLoss

from memo_lightning.errors import require
from memo_lightning.models import PassSettings
from memo_lightning.algorithms.advantages import add_advantages
from memo_lightning.algorithms.schedule import Schedule, learning_rate_factor
from memo_lightning.policies import MemoryPolicy

DrawPass = Callable[[], PassSettings]
"""Draws what is random in a training pass: its segment length and the layers that it skips."""


@dataclass(frozen=True)
class Experience:
    """What an update learns from: the last ``t`` steps of whole rows, seen from all that came before.

    Attributes:
        rows: policy inputs ``[B, T]`` from the start of the rollout on.
        learned: ``[B, t]`` of the last t steps: action, its log-probability, value, advantage and value target.
        pass_settings: what was drawn for the pass; nothing where each minibatch draws its own.
    """

    rows: TensorDict
    learned: TensorDict
    pass_settings: PassSettings


class PPO:
    """What to do with a rollout: advantages, then epochs over minibatches of whole rows.

    The loss sits on the two heads and reads the trunk's output as an entry that carries gradient, so encoder
    and sequence model run once per minibatch.

    Acting uses the model's segment length and all of its layers, and every training pass draws a jittered length and
    may skip layers, so the probability ratio is not one before the first step. ``recompute_log_probs`` makes it one:
    an update draws once for all of its passes, and takes for old what the policy says under that draw before the
    first step.

    Args:
        gamma: discount per step.
        gae_lambda: lambda of generalised advantage estimation.
        cross_episode_returns: let returns cross the episodes of a trial.
        clip_epsilon: how far the probability ratio may move.
        entropy_coef: weight of the entropy bonus.
        value_coef: weight of the squared value error.
        n_epochs: passes over a rollout, or over a chunk of it.
        n_minibatches: minibatches per pass; at most the number of rows.
        normalize_advantage: standardise advantages within a minibatch.
        target_kl: an update ends after the epoch whose mean KL divergence from the old policy is above this,
            agreed by all processes; None for never.
        recompute_log_probs: recompute old log-probabilities under the segmentation and layers of the update.
        shuffle_episodes: where a rollout comes in chunks, put the complete episodes of every trial in random
            order after each partial update, in the memory and in the rows.
        learning_rate: of the optimizer.
        warmup_frames: environment steps over which the learning rate rises from zero.
        schedule: ``constant``, or ``cosine`` to let it fall to zero at the end of the run.
        max_grad_norm: gradients are scaled down to this norm.
        reward_scale: rewards are multiplied by this before anything is learned from them; reported returns are not.
        max_skipped_updates: how many updates in a row may have a loss or gradient that is not finite; such an
            update is skipped.

    Raises:
        UserError: if a setting is out of range, or two do not go together.
    """

    def __init__(
        self,
        *,
        gamma: float,
        gae_lambda: float,
        cross_episode_returns: bool,
        clip_epsilon: float,
        entropy_coef: float,
        value_coef: float,
        n_epochs: int,
        n_minibatches: int,
        normalize_advantage: bool,
        target_kl: float | None,
        recompute_log_probs: bool,
        shuffle_episodes: bool,
        learning_rate: float,
        warmup_frames: int,
        schedule: Schedule,
        max_grad_norm: float,
        reward_scale: float,
        max_skipped_updates: int,
    ) -> None:
        for name, fraction in {"gamma": gamma, "gae_lambda": gae_lambda}.items():
            require(0 <= fraction <= 1, f"algorithm.{name}", fraction, "between 0 and 1")
        positive = {"clip_epsilon": clip_epsilon, "learning_rate": learning_rate, "max_grad_norm": max_grad_norm}
        positive["reward_scale"] = reward_scale
        for name, value in positive.items():
            require(value > 0, f"algorithm.{name}", value, "greater than 0")
        for name, weight in {"entropy_coef": entropy_coef, "value_coef": value_coef}.items():
            require(weight >= 0, f"algorithm.{name}", weight, "at least 0")
        counts = {"n_epochs": n_epochs, "n_minibatches": n_minibatches, "max_skipped_updates": max_skipped_updates}
        for name, count in counts.items():
            require(count >= 1, f"algorithm.{name}", count, "at least 1")
        require(target_kl is None or target_kl > 0, "algorithm.target_kl", target_kl, "greater than 0, or null")
        require(warmup_frames >= 0, "algorithm.warmup_frames", warmup_frames, "at least 0")
        schedules = get_args(Schedule)
        require(schedule in schedules, "algorithm.schedule", schedule, f"one of {', '.join(schedules)}")
        require(
            not (shuffle_episodes and cross_episode_returns),
            "algorithm.shuffle_episodes",
            shuffle_episodes,
            "false with algorithm.cross_episode_returns=true, as returns follow the order of episodes",
        )
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.cross_episode_returns = cross_episode_returns
        self.clip_epsilon, self.normalize_advantage = clip_epsilon, normalize_advantage
        self.entropy_coef, self.value_coef = entropy_coef, value_coef
        self.n_epochs, self.n_minibatches, self.target_kl = n_epochs, n_minibatches, target_kl
        self.recompute_log_probs, self.shuffle_episodes = recompute_log_probs, shuffle_episodes
        self.learning_rate, self.max_grad_norm = learning_rate, max_grad_norm
        self.warmup_frames, self.schedule = warmup_frames, schedule
        self.reward_scale = reward_scale
        self.max_skipped_updates = max_skipped_updates
        self._loss: ClipPPOLoss | None = None

    def check_rows(self, n_rows: int) -> None:
        """Raise :class:`UserError` unless a rollout of ``n_rows`` rows can be cut into the minibatches."""
        allowed = f"at most the {n_rows} rows of a rollout"
        require(self.n_minibatches <= n_rows, "algorithm.n_minibatches", self.n_minibatches, allowed)

    def learning_rate_at(self, frames: float, total_frames: int) -> float:
        """Return the learning rate at ``frames`` of ``total_frames``."""
        return self.learning_rate * learning_rate_factor(frames, total_frames, self.warmup_frames, self.schedule)

    def attach(self, policy: MemoryPolicy) -> None:
        """Build the loss on the policy's heads, on their device; call it before :meth:`loss`."""
        loss = ClipPPOLoss(
            policy.actor,
            policy.critic,
            clip_epsilon=self.clip_epsilon,
            entropy_coeff=self.entropy_coef,
            critic_coeff=self.value_coef,
            loss_critic_type="l2",
            normalize_advantage=self.normalize_advantage,
            functional=False,  # the heads' own parameters, so that DDP sees their gradients
        )
        loss.set_keys(sample_log_prob="action_log_prob")
        self._loss = loss

    @torch.no_grad()
    def prepare(
        self,
        policy: MemoryPolicy,
        rollout: TensorDictBase,
        draw_pass: DrawPass,
        first: int = 0,
        *,
        stale_values: bool = False,
    ) -> Experience:
        """Return what to learn from the steps ``first`` and later of a rollout ``[B, T]``.

        Rows that end in the middle of a trial are bootstrapped with the value of the observation after them.

        Args:
            policy: the policy, with the weights that the update begins with.
            rollout: the rollout so far; its rows begin at the start of a trial.
            draw_pass: draws what is random in a training pass.
            first: first step to learn from.
            stale_values: the weights have changed since these steps were acted, so their values are computed again.
        """
        end_with_trial = rollout.get(("next", "done"))[:, -1]
        last_value = torch.zeros_like(rollout.get("state_value")[:, -1])
        if stale_values or not bool(end_with_trial.all()):
            values = _values(policy, rollout)
            last_value = values[:, -1].masked_fill(end_with_trial, 0.0)
            if stale_values:
                rollout.set("state_value", values[:, :-1])
        pass_settings: PassSettings = {}
        if self.recompute_log_probs:
            pass_settings = draw_pass()
            rollout.set("action_log_prob", _log_probs(policy, rollout, pass_settings))
        learned = rollout[:, first:]
        add_advantages(
            learned,
            last_value,
            self.gamma,
            self.gae_lambda,
            cross_episodes=self.cross_episode_returns,
            reward_scale=self.reward_scale,
        )
        return Experience(
            rollout.select(*policy.in_keys),
            learned.select("action", "action_log_prob", "state_value", "advantage", "value_target"),
            pass_settings,
        )

    def minibatches(self, experience: Experience, draw_pass: DrawPass) -> Iterator[Experience]:
        """Yield minibatches of whole rows in random order, each row once."""
        device = experience.learned.get("action").device
        for index in torch.randperm(len(experience.rows)).tensor_split(self.n_minibatches):
            rows = index.to(device)
            pass_settings = experience.pass_settings if self.recompute_log_probs else draw_pass()
            yield Experience(experience.rows[rows], experience.learned[rows], pass_settings)

    def loss(self, policy: MemoryPolicy, minibatch: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar loss of a minibatch, and its parts for logging (detached)."""
        assert self._loss is not None, "attach() comes first"
        hidden = policy.hidden(minibatch.rows, **minibatch.pass_settings)
        terms = self._loss(minibatch.learned.set("hidden", hidden[:, -minibatch.learned.shape[1] :]))
        total = terms["loss_objective"] + terms["loss_critic"] + terms["loss_entropy"]
        metrics = {
            "policy_loss": terms["loss_objective"],
            "value_loss": terms["loss_critic"],
            "entropy": terms["entropy"],
            "kl": terms["kl_approx"],
            "clip_fraction": terms["clip_fraction"],
        }
        auxiliary = policy.sequence_model.auxiliary_loss()
        if auxiliary is not None:
            total = total + auxiliary
            metrics["memory_loss"] = auxiliary
        return total, {name: value.detach() for name, value in metrics.items()}


def _values(policy: MemoryPolicy, rollout: TensorDictBase) -> Tensor:
    """Return values ``[B, T + 1, 1]`` of all steps and of the observation after the last, as acting would."""
    last = rollout[:, -1:].get("next").select(*policy.in_keys)
    rows = torch.cat([rollout.select(*policy.in_keys), last], dim=1)
    hidden = policy.hidden(rows, **policy.sequence_model.acting_pass())
    return policy.critic(TensorDict({"hidden": hidden}, hidden.shape[:2])).get("state_value")


def _log_probs(policy: MemoryPolicy, rollout: TensorDictBase, pass_settings: PassSettings) -> Tensor:
    """Return the log-probabilities ``[B, T]`` of the actions taken, in a pass of these settings."""
    hidden = policy.hidden(rollout.select(*policy.in_keys), **pass_settings)
    return policy.actor.log_prob(TensorDict({"hidden": hidden, "action": rollout.get("action")}, rollout.batch_size))
