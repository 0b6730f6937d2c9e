"""Proximal policy optimisation (arXiv 1707.06347) on whole sequences, with TorchRL's clipped loss on the heads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.objectives import ClipPPOLoss

from memo_lightning.algorithms.advantages import add_advantages
from memo_lightning.algorithms.base import Algorithm, Metrics, TrainingRun
from memo_lightning.algorithms.returns import normalized_reward_scale, update_normalizer
from memo_lightning.data.collector import AFTER, STEPS
from memo_lightning.data.rollouts import RolloutDataModule
from memo_lightning.errors import UserError, require
from memo_lightning.models import PassSettings
from memo_lightning.policies import MemoryPolicy
from memo_lightning.policies.heads import ActorCriticHeads
from memo_lightning.policies.input_history import shuffle_episodes
from memo_lightning.policies.precision import full_precision

DrawPass = Callable[[], PassSettings]
"""Draws what is random in a training pass: its segment length and the layers that it skips."""


@dataclass(frozen=True)
class Experience:
    """What an update learns from: the last ``t`` steps of whole sequences, with all that came before as context.

    Attributes:
        inputs: policy inputs ``[B, T]`` from the start of the rollout on.
        learned: of the last t steps, ``[B, t]``: action, its log-probability, value, advantage, value target and, if
            there is one, the action mask.
        pass_settings: the settings drawn for the pass; empty if each minibatch draws its own.
    """

    inputs: TensorDictBase
    learned: TensorDictBase
    pass_settings: PassSettings


class PPO(Algorithm):
    """PPO on rollouts: advantages, then epochs over minibatches of whole sequences.

    A rollout may come in chunks. After each chunk but the last, a *partial update* learns from the new steps only, with
    all earlier steps of the sequence as context; after the last, a *full update* learns from all steps. Partial updates
    leave the acting policy with a stale memory, which it refreshes by itself.

    The loss is computed on the two heads and reads the trunk's output, which carries gradient, so encoder and sequence
    model run once per minibatch.

    Acting uses the model's segment length and all of its layers, while every training pass draws a jittered length and
    may skip layers. The probability ratio is therefore not one before the first gradient step. ``recompute_log_probs``
    makes it one: an update draws once for all of its passes, and computes the old log-probabilities under that draw
    before the first step.

    Args:
        gamma: discount per step.
        gae_lambda: lambda of generalised advantage estimation.
        cross_episode_returns: let returns cross the episodes of a trial.
        clip_epsilon: how far the probability ratio may move from one before it is clipped.
        entropy_coef: weight of the entropy bonus.
        value_coef: weight of the squared value error.
        n_epochs: passes over each rollout, or over each chunk of it.
        n_minibatches: minibatches per pass; at most the number of environments.
        normalize_advantage: standardise advantages within a minibatch.
        target_kl: end an update after the first epoch whose KL divergence from the old policy, averaged over all
            processes, exceeds this; None for never.
        recompute_log_probs: recompute old log-probabilities with the segment length and layers of the update.
        shuffle_episodes: if a rollout comes in chunks, shuffle the complete episodes of every trial after each partial
            update, in the memory and in the sequences.
        detach_older_encodings: partial updates encode the observations of earlier chunks without gradient, which saves
            time and memory if observations are images.
        reward_scale: rewards are multiplied by this for learning; reported returns are not.
        noise_correlation: correlation of the noise of successive continuous actions; see
            :class:`~memo_lightning.policies.exploration.CorrelatedNoise`.
        **settings: settings of the optimizer; see :class:`Algorithm`.

    Raises:
        UserError: if a setting is out of range, or two settings are incompatible.
    """

    heads = ActorCriticHeads

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
        detach_older_encodings: bool,
        reward_scale: float,
        noise_correlation: float,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        for name, fraction in {"gamma": gamma, "gae_lambda": gae_lambda}.items():
            require(0 <= fraction <= 1, f"algorithm.{name}", fraction, "between 0 and 1")
        allowed = "at least 0 and below 1"
        require(0 <= noise_correlation < 1, "algorithm.noise_correlation", noise_correlation, allowed)
        for name, value in {"clip_epsilon": clip_epsilon, "reward_scale": reward_scale}.items():
            require(value > 0, f"algorithm.{name}", value, "greater than 0")
        for name, weight in {"entropy_coef": entropy_coef, "value_coef": value_coef}.items():
            require(weight >= 0, f"algorithm.{name}", weight, "at least 0")
        for name, count in {"n_epochs": n_epochs, "n_minibatches": n_minibatches}.items():
            require(count >= 1, f"algorithm.{name}", count, "at least 1")
        require(target_kl is None or target_kl > 0, "algorithm.target_kl", target_kl, "greater than 0, or null")
        require(
            not (shuffle_episodes and cross_episode_returns),
            "algorithm.shuffle_episodes",
            shuffle_episodes,
            "false with algorithm.cross_episode_returns=true, as returns depend on the order of episodes",
        )
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.cross_episode_returns = cross_episode_returns
        self.clip_epsilon, self.normalize_advantage = clip_epsilon, normalize_advantage
        self.entropy_coef, self.value_coef = entropy_coef, value_coef
        self.n_epochs, self.n_minibatches, self.target_kl = n_epochs, n_minibatches, target_kl
        self.recompute_log_probs, self.shuffle_episodes = recompute_log_probs, shuffle_episodes
        self.detach_older_encodings = detach_older_encodings
        self.reward_scale, self.noise_correlation = reward_scale, noise_correlation
        self._terms: Callable[[TensorDictBase], TensorDictBase] | None = None
        self._rollout: TensorDictBase | None = None  # the steps so far of an incomplete rollout
        self._partial_updates: list[Metrics] = []  # of that rollout

    @property
    def in_rollout(self) -> bool:
        """Whether the current rollout is still incomplete."""
        return self._rollout is not None

    def check_n_envs(self, n_envs: int) -> None:
        """Raise :class:`UserError` unless a rollout of ``n_envs`` environments can be split into the minibatches."""
        allowed = f"at most collector.n_envs={n_envs}"
        require(self.n_minibatches <= n_envs, "algorithm.n_minibatches", self.n_minibatches, allowed)

    def check_data(self, data: Any) -> None:
        """Raise :class:`UserError` unless ``data`` collects rollouts that can be split into the minibatches."""
        if not isinstance(data, RolloutDataModule):
            raise UserError("algorithm=ppo: needs rollouts: collector=single, multi_sync, multi_async or ray")
        self.check_n_envs(data.n_envs)
        for name in ("shuffle_episodes", "detach_older_encodings"):
            allowed = "false with collector.n_chunks=1, which makes no partial updates"
            require(data.n_chunks > 1 or not getattr(self, name), f"algorithm.{name}", getattr(self, name), allowed)

    def prepare_policy(self, policy: MemoryPolicy, data: RolloutDataModule) -> None:
        """Make the policy keep its inputs if partial updates change it within trials, and set its exploration noise.

        Raises:
            UserError: if correlated noise is set for actions that are not continuous.
        """
        if self.noise_correlation:
            if not policy.heads.is_continuous:
                raise UserError(f"algorithm.noise_correlation={self.noise_correlation}: must be 0 for discrete actions")
            policy.correlate_noise(self.noise_correlation)
        if data.n_chunks > 1:
            policy.keep_inputs(shuffle_episodes=self.shuffle_episodes)

    def attach(self, policy: MemoryPolicy, data: RolloutDataModule) -> None:
        """Build the loss on the policy's heads, on their device."""
        self._rollout_length, self._n_actors = data.rollout_length, data.n_actors
        heads = policy.heads
        assert isinstance(heads, ActorCriticHeads)
        loss = ClipPPOLoss(
            heads.actor,
            heads.critic,
            clip_epsilon=self.clip_epsilon,
            entropy_coeff=self.entropy_coef,
            critic_coeff=self.value_coef,
            loss_critic_type="l2",
            normalize_advantage=self.normalize_advantage,
            functional=False,  # the heads' own parameters, so that DDP sees their gradients
        )
        loss.set_keys(sample_log_prob="action_log_prob")
        self._terms = loss.forward  # not the module, whose parameters are the policy's

    def update(self, batch: TensorDictBase, run: TrainingRun) -> Metrics | None:
        """Learn from the next chunk of a rollout; see :meth:`Algorithm.update`."""
        policy, chunk = run.policy, batch.get(STEPS)
        rollout: TensorDictBase = chunk if self._rollout is None else torch.cat([self._rollout, chunk], dim=1)
        is_complete = rollout.shape[1] == self._rollout_length
        first = 0 if is_complete else rollout.shape[1] - chunk.shape[1]
        stale_values = is_complete and self._rollout is not None
        # The same on all ranks: if they drew different lengths or layers, they would wait for the slowest.
        generator = torch.Generator().manual_seed(run.seed + run.frames)
        draw_pass = partial(policy.sequence_model.draw_pass, generator)
        experience = self.prepare(policy, rollout, batch.get(AFTER), draw_pass, first, stale_values=stale_values)
        metrics = self._optimise(experience, draw_pass, run)
        if not is_complete:
            self._partial_updates.append(metrics)
            self._rollout = self._after_partial_update(policy, rollout)
            return None
        self._rollout = None
        update_normalizer(run, rollout, self.gamma, cross_episodes=self.cross_episode_returns)
        return self._describe(metrics)

    @torch.no_grad()
    def prepare(
        self,
        policy: MemoryPolicy,
        rollout: TensorDictBase,
        following: TensorDictBase,
        draw_pass: DrawPass,
        first: int = 0,
        *,
        stale_values: bool = False,
    ) -> Experience:
        """Return the experience from step ``first`` on of a rollout ``[B, T]``.

        Sequences that end in the middle of a trial are bootstrapped with the value of the following observation.

        Args:
            policy: the policy, with the weights that the update begins with.
            rollout: the steps so far; its sequences begin at the start of a trial.
            following: policy inputs ``[B]`` after the last step.
            draw_pass: draws the random settings of a training pass.
            first: first step to learn from.
            stale_values: whether the weights have changed since these steps were collected, so that their values are
                recomputed. The values of observations at which episodes were cut off stay as collected.
        """
        last_value = torch.zeros_like(rollout.get("state_value")[:, -1])
        if stale_values or not bool(rollout.get(("next", "done"))[:, -1].all()):
            values = _values(policy, rollout, following)
            last_value = values[:, -1]
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
            reward_scale=self.reward_scale * normalized_reward_scale(policy),
        )
        kept = ("action", "action_log_prob", "state_value", "advantage", "value_target")
        return Experience(rollout.select(*policy.input_keys), learned.select(*kept, *policy.head_keys), pass_settings)

    def minibatches(self, experience: Experience, draw_pass: DrawPass) -> Iterator[Experience]:
        """Yield minibatches of whole sequences in random order, each sequence once."""
        device = experience.learned.get("action").device
        for index in torch.randperm(len(experience.inputs)).tensor_split(self.n_minibatches):
            chosen = index.to(device)
            pass_settings = experience.pass_settings if self.recompute_log_probs else draw_pass()
            yield Experience(experience.inputs[chosen], experience.learned[chosen], pass_settings)

    def loss(self, policy: MemoryPolicy, minibatch: Experience) -> tuple[Tensor, Metrics]:
        """Return the scalar loss of a minibatch, and its parts for logging (detached)."""
        assert self._terms is not None, "attach() comes first"
        n_learned, n_steps = minibatch.learned.shape[1], minibatch.inputs.shape[1]
        gradient_from = n_steps - n_learned if self.detach_older_encodings else 0
        hidden = policy.hidden(minibatch.inputs, encoder_gradient_from=gradient_from, **minibatch.pass_settings)
        with full_precision(policy.device):
            terms = self._terms(minibatch.learned.copy().set("hidden", hidden[:, -n_learned:]))
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

    def _optimise(self, experience: Experience, draw_pass: DrawPass, run: TrainingRun) -> Metrics:
        """Run the epochs of one update; return the means of the metrics over its minibatches."""
        history: dict[str, list[Tensor]] = defaultdict(list)
        kl_by_epoch: list[Tensor] = []
        for _ in range(self.n_epochs):
            for minibatch in self.minibatches(experience, draw_pass):
                loss, metrics = self.loss(run.policy, minibatch)
                inputs = {"observation": minibatch.inputs, "rollout": minibatch.learned}
                metrics["gradient_norm"] = run.make_step(loss, inputs)
                for name, value in metrics.items():
                    history[name].append(value)
            kl_by_epoch.append(torch.stack(history["kl"][-self.n_minibatches :]).mean())
            # If ranks took different numbers of steps, they would wait for each other forever.
            if self.target_kl is not None and float(run.mean_over_ranks(kl_by_epoch[-1])) > self.target_kl:
                break
        means = {name: torch.stack(values).nanmean() for name, values in history.items()}
        return {**means, "epochs": torch.tensor(float(len(kl_by_epoch))), "kl_first_epoch": kl_by_epoch[0]}

    def _after_partial_update(self, policy: MemoryPolicy, rollout: TensorDictBase) -> TensorDictBase:
        """Mark the policy's memory as stale; return the steps so far as the policy sees them from now on."""
        policy.weights_version += 1
        policy.share_inputs(rollout)
        if not self.shuffle_episodes:
            return rollout
        seed = int(policy.weights_version)
        return torch.cat([shuffle_episodes(share, seed) for share in rollout.chunk(self._n_actors)])

    def _describe(self, full_update: Metrics) -> Metrics:
        """Return the metrics of a complete rollout: means over its partial updates, and those of the full update."""
        metrics = {f"update/{name}": value for name, value in full_update.items()}
        for name in full_update if self._partial_updates else ():
            # A memory may have nothing to add to the loss before the first segment is complete.
            values = [update[name] for update in self._partial_updates if name in update]
            if values:
                metrics[f"partial_update/{name}"] = torch.stack(values).mean()
        self._partial_updates.clear()
        return metrics


def _values(policy: MemoryPolicy, rollout: TensorDictBase, following: TensorDictBase) -> Tensor:
    """Return the values ``[B, T + 1, 1]`` of all steps and of the observation after the last, as in acting."""
    inputs = torch.cat([rollout.select(*policy.input_keys), following.select(*policy.input_keys).unsqueeze(1)], dim=1)
    hidden = policy.hidden(inputs, **policy.sequence_model.acting_pass())
    with full_precision(policy.device):
        return policy.heads.critic(TensorDict({"hidden": hidden}, hidden.shape[:2])).get("state_value")  # type: ignore[operator]


def _log_probs(policy: MemoryPolicy, rollout: TensorDictBase, pass_settings: PassSettings) -> Tensor:
    """Return the log-probabilities ``[B, T]`` of the actions taken, in a pass with these settings."""
    hidden = policy.hidden(rollout.select(*policy.input_keys), **pass_settings)
    with full_precision(policy.device):
        return policy.actor.log_prob(policy.head_inputs(hidden, rollout).set("action", rollout.get("action")))
