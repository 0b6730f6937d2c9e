"""An off-policy actor-critic that learns from a replay of whole trials (the objective of AMAGO, arXiv 2310.09971)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.optim import Optimizer

from memo_lightning.algorithms.actor_critic_loss import ActorCriticLoss, Losses
from memo_lightning.algorithms.base import Algorithm, Metrics, TrainingRun
from memo_lightning.algorithms.returns import normalized_reward_scale, update_normalizer
from memo_lightning.data.collector import AFTER, STEPS
from memo_lightning.data.replay import TrialReplay
from memo_lightning.data.rollouts import RolloutDataModule
from memo_lightning.data.trial_cutting import cut_into_trials
from memo_lightning.errors import UserError, require
from memo_lightning.policies import MemoryPolicy
from memo_lightning.policies.heads import ExploringHeads
from memo_lightning.policies.precision import full_precision


class ActorCritic(Algorithm):
    """Off-policy learning from rollouts: their trials go into a replay, and updates use trials drawn from it.

    An update runs encoder and sequence model once over a batch of whole trials, including the inputs after the last
    step; online and target heads read their outputs, as described in
    :class:`~memo_lightning.algorithms.actor_critic_loss.ActorCriticLoss`.

    A rollout may come in chunks, with updates after each. Trials enter the replay when they end, or at the end of the
    rollout. The memory of running trials is recomputed once it is more than ``max_staleness`` updates old.

    Args:
        gamma: discount per step of the return that the actor maximises.
        other_gammas: further discounts that the critics learn, which also train the trunk.
        cross_episode_returns: let returns cross the episodes of a trial.
        n_critics: number of critics in the ensemble.
        n_minimum: number of critics drawn for every update; their smallest value is the target.
        critic_width: width of the critics' hidden layer.
        critic_coef: weight of the critics' squared errors.
        clone_coef: weight of cloning actions that were better than the actor's.
        tau: fraction of the way that the target heads move to the online heads with every update.
        popart_rate: weight of the newest value targets in their running statistics.
        updates_per_frame: number of updates per environment step of all processes.
        learning_starts: environment steps of all processes before the first update.
        max_staleness: number of updates by which the memories of running trials may be older than the weights.
        random_actions: fraction of actions drawn uniformly at the start of training.
        random_actions_end: fraction of actions drawn uniformly from ``random_actions_frames`` on.
        random_actions_frames: environment steps over which the fraction of random actions falls linearly.
        replay: the replay of trials.
        settings: further arguments of :class:`Algorithm`.

    Attributes:
        n_updates: number of updates so far.
    """

    heads = ExploringHeads

    def __init__(
        self,
        *,
        gamma: float,
        other_gammas: Sequence[float],
        cross_episode_returns: bool,
        n_critics: int,
        n_minimum: int,
        critic_width: int,
        critic_coef: float,
        clone_coef: float,
        tau: float,
        popart_rate: float,
        updates_per_frame: float,
        learning_starts: int,
        max_staleness: int,
        random_actions: float,
        random_actions_end: float,
        random_actions_frames: int,
        replay: TrialReplay,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        for name, discount in [("gamma", gamma), *(("other_gammas", other) for other in other_gammas)]:
            is_discount = isinstance(discount, int | float) and 0 <= discount < 1
            require(is_discount, f"algorithm.{name}", discount, "at least 0 and below 1")
        require(len({gamma, *other_gammas}) == 1 + len(other_gammas), "algorithm.other_gammas", list(other_gammas),
                f"different from each other and from algorithm.gamma={gamma}")  # fmt: skip
        counts = {"n_critics": n_critics, "critic_width": critic_width, "random_actions_frames": random_actions_frames}
        for name, count in counts.items():
            require(count >= 1, f"algorithm.{name}", count, "at least 1")
        allowed = f"from 1 to algorithm.n_critics={n_critics}"
        require(1 <= n_minimum <= n_critics, "algorithm.n_minimum", n_minimum, allowed)
        for name, value in {"critic_coef": critic_coef, "updates_per_frame": updates_per_frame}.items():
            require(value > 0, f"algorithm.{name}", value, "greater than 0")
        for name, value in {
            "clone_coef": clone_coef,
            "learning_starts": learning_starts,
            "max_staleness": max_staleness,
        }.items():
            require(value >= 0, f"algorithm.{name}", value, "at least 0")
        for name, value in {"tau": tau, "popart_rate": popart_rate}.items():
            require(0 < value <= 1, f"algorithm.{name}", value, "greater than 0 and at most 1")
        for name, value in {"random_actions": random_actions, "random_actions_end": random_actions_end}.items():
            require(0 <= value <= 1, f"algorithm.{name}", value, "between 0 and 1")
        if not isinstance(replay, TrialReplay):
            raise UserError("algorithm.replay._target_: must be memo_lightning.data.replay.TrialReplay")
        self.gammas = [gamma, *other_gammas]
        self.updates_per_frame, self.learning_starts = updates_per_frame, learning_starts
        self.max_staleness, self.tau = max_staleness, tau
        self.random_actions, self.random_actions_end = random_actions, random_actions_end
        self.random_actions_frames = random_actions_frames
        self.replay = replay
        self._loss_settings: dict[str, Any] = {
            "discounts": self.gammas,
            "n_critics": n_critics,
            "n_minimum": n_minimum,
            "width": critic_width,
            "critic_coef": critic_coef,
            "clone_coef": clone_coef,
            "popart_rate": popart_rate,
            "cross_episodes": cross_episode_returns,
        }
        self.n_updates = self._n_updates_of_memory = 0
        self._owed = 0.0  # updates that are to be made for frames collected so far
        self._rollout: TensorDictBase | None = None  # the steps so far of an incomplete rollout
        self._history: dict[str, list[Tensor]] = defaultdict(list)  # of that rollout
        self._seconds = 0.0  # taken by its updates

    @property
    def in_rollout(self) -> bool:
        """Whether the current rollout is still incomplete."""
        return self._rollout is not None

    def check_trial_length(self, n_steps: int) -> None:
        """Raise :class:`UserError` unless the replay has room for trials of ``n_steps`` steps."""
        allowed = f"at least {n_steps}, the smaller of env.trial_length and collector.rollout_length"
        longest = self.replay.trial_length
        require(longest >= n_steps, "algorithm.replay.trial_length", longest, allowed)

    def check_data(self, data: Any) -> None:
        """Raise :class:`UserError` unless ``data`` collects rollouts."""
        if not isinstance(data, RolloutDataModule):
            raise UserError("algorithm=actor_critic: needs rollouts: collector=single, multi_sync, multi_async or ray")

    def prepare_policy(self, policy: MemoryPolicy, data: RolloutDataModule) -> None:
        """Build critics and target heads, and make the policy keep its inputs if there are updates within trials."""
        self.loss = ActorCriticLoss(policy, **self._loss_settings)
        self._explore(policy, 0)
        if data.n_chunks > 1:
            policy.keep_inputs(shuffle_episodes=False)

    def plan_storage(
        self, policy: MemoryPolicy, data: RolloutDataModule, run_dir: Path, n_processes: int, *, is_resumed: bool
    ) -> list[str]:
        """Check that the replay fits on its disk; return a line that says how much it takes."""
        trial = self._empty_trial(policy, data)
        return [self.replay.plan(trial, run_dir / "replay", n_processes, is_resumed=is_resumed)]

    def configure_optimizers(self, policy: MemoryPolicy) -> Optimizer:
        """Return the optimizer of the policy and the critics."""
        return self._make_optimizer([*policy.parameters(), *self.loss.critics.parameters()])

    def attach(self, policy: MemoryPolicy, data: RolloutDataModule) -> None:
        """Open the replay of this rank."""
        self._rollout_length = data.rollout_length
        trainer = data.trainer
        assert trainer is not None
        root = trainer.strategy.broadcast(Path(trainer.default_root_dir) / "replay")
        self.replay.open(self._empty_trial(policy, data), root, trainer.global_rank)

    def update(self, batch: TensorDictBase, run: TrainingRun) -> Metrics | None:
        """Add the next chunk of a rollout to the replay, and learn; see :meth:`Algorithm.update`."""
        policy, chunk = run.policy, batch.get(STEPS)
        rollout: TensorDictBase = chunk if self._rollout is None else torch.cat([self._rollout, chunk], dim=1)
        is_complete = rollout.shape[1] == self._rollout_length
        self._remember(policy, rollout, batch.get(AFTER), rollout.shape[1] - chunk.shape[1], is_complete)
        frames = run.frames + run.new_frames
        self._owed += self.updates_per_frame * min(run.new_frames, max(0, frames - self.learning_starts))
        self._learn(run, int(round(self._owed, 6)))
        self._explore(policy, frames)
        if not is_complete:
            self._rollout = rollout
            policy.share_inputs(rollout)
            if self.n_updates - self._n_updates_of_memory > self.max_staleness:
                policy.weights_version += 1
                self._n_updates_of_memory = self.n_updates
            self._history["staleness"].append(torch.tensor(float(self.n_updates - self._n_updates_of_memory)))
            return None
        self._rollout = None
        self._n_updates_of_memory = self.n_updates  # the next rollout begins with empty memories
        update_normalizer(run, rollout, self.gammas[0], cross_episodes=self.loss.cross_episodes)
        return self._describe(policy)

    def progress(self) -> dict[str, Any]:
        """Return the number of updates, and what every rank needs to resume its replay."""
        return {"n_updates": self.n_updates, "owed_updates": self._owed, "replay": self.replay.progress()}

    def load_progress(self, progress: Mapping[str, Any]) -> None:
        """Restore what :meth:`progress` returned."""
        self.n_updates = self._n_updates_of_memory = progress["n_updates"]
        self._owed = progress.get("owed_updates", 0.0)  # files of earlier versions do not have it
        self.replay.load_progress(progress["replay"])

    def checkpoint_saved(self) -> None:
        """Let the replay drop what only an older checkpoint would need."""
        self.replay.checkpoint_saved()

    def _empty_trial(self, policy: MemoryPolicy, data: RolloutDataModule) -> TensorDictBase:
        """Return an example trial ``[T + 1]`` with the shapes and dtypes of all trials."""
        step = data.env.fake_tensordict()[:1].unsqueeze(1).cpu()
        after = step[:, 0].select(*policy.in_keys)
        return cut_into_trials(step, after, policy.in_keys, self.replay.trial_length)[0]

    def _remember(
        self, policy: MemoryPolicy, rollout: TensorDictBase, following: TensorDictBase, first: int, is_complete: bool
    ) -> None:
        """Add to the replay the trials that ended at step ``first`` or later, or with the rollout."""
        longest = self.replay.trial_length
        try:
            trials = cut_into_trials(rollout, following, policy.in_keys, longest, first=first, is_complete=is_complete)
        except ValueError as error:
            raise UserError(f"algorithm.replay.trial_length={longest}: {error}") from None
        self.replay.extend(trials)

    def _learn(self, run: TrainingRun, n_updates: int) -> None:
        """Make ``n_updates`` updates on all ranks, or none if the replay of any rank is empty."""
        policy, start = run.policy, time.perf_counter()
        lacking = torch.tensor(float(len(self.replay) == 0), device=policy.device)
        if n_updates <= 0 or float(run.sum_over_ranks(lacking)):
            return
        # The same on all ranks: if they drew different lengths or layers, they would wait for the slowest.
        generator = torch.Generator().manual_seed(run.seed + run.frames)
        for _ in range(n_updates):
            sampled = self.replay.sample()
            trials = sampled.trials.to(policy.device)
            losses, memory_loss = self._losses(run, trials, sampled.weight.to(policy.device), generator)
            total = losses.total if memory_loss is None else losses.total + memory_loss
            norm = run.make_step(total, {"trials": trials})
            self.loss.follow(policy, self.tau)
            self.replay.set_errors(sampled.index, losses.errors)
            self.n_updates += 1
            self._owed -= 1
            self._note(losses, memory_loss, norm)
        self._seconds += time.perf_counter() - start

    def _losses(
        self, run: TrainingRun, trials: TensorDictBase, weight: Tensor, generator: torch.Generator
    ) -> tuple[Losses, Tensor | None]:
        """Return the losses of a batch, and the loss that the memory adds, if any."""
        policy = run.policy
        hidden = policy.hidden(trials.select(*policy.input_keys), **policy.sequence_model.draw_pass(generator))
        with full_precision(policy.device):
            losses = self.loss(
                policy,
                hidden,
                trials,
                weight,
                reward_scale=normalized_reward_scale(policy),
                generator=generator,
                over_ranks=run.mean_over_ranks,
            )
        return losses, policy.sequence_model.auxiliary_loss()

    def _explore(self, policy: MemoryPolicy, frames: int) -> None:
        """Set the fraction of random actions for the data collected after ``frames`` environment steps."""
        assert isinstance(policy.heads, ExploringHeads)
        left = max(0.0, 1 - frames / self.random_actions_frames)
        fraction = self.random_actions_end + left * (self.random_actions - self.random_actions_end)
        policy.heads.random_fraction.fill_(fraction)

    def _note(self, losses: Losses, memory_loss: Tensor | None, norm: Tensor) -> None:
        """Record an update for the metrics of the rollout."""
        noted = {
            "actor_loss": losses.actor,
            "clone_loss": losses.clone,
            "cloned_fraction": losses.cloned_fraction,
            "gradient_norm": norm,
            **{f"critic_loss_gamma_{g}": loss for g, loss in zip(self.gammas, losses.critic, strict=True)},
        }
        if memory_loss is not None:
            noted["memory_loss"] = memory_loss.detach()
        for name, value in noted.items():
            self._history[name].append(value)

    def _describe(self, policy: MemoryPolicy) -> Metrics:
        """Return the metrics of a complete rollout."""
        staleness = self._history.pop("staleness", [torch.zeros(())])
        n_updates = len(self._history["actor_loss"])
        metrics = {f"update/{name}": torch.stack(values).nanmean() for name, values in self._history.items() if values}
        for number, gamma in enumerate(self.gammas):
            metrics[f"popart/mean_gamma_{gamma}"] = self.loss.popart.mean[number]
            metrics[f"popart/deviation_gamma_{gamma}"] = self.loss.popart.deviation[number]
        assert isinstance(policy.heads, ExploringHeads)
        plain = {
            "update/updates": self.n_updates,
            "replay/trials": len(self.replay),
            "replay/fill": len(self.replay) / self.replay.capacity,
            "replay/random_actions": float(policy.heads.random_fraction),
            "replay/memory_staleness": float(torch.stack(staleness).max()),
        }
        if n_updates:
            plain["wall_clock/updates_per_second"] = n_updates / self._seconds
        metrics |= {name: torch.tensor(float(value)) for name, value in plain.items()}
        self._history.clear()
        self._seconds = 0.0
        return metrics
