"""The LightningModule: one training step learns from a rollout, or a chunk of it, in many optimizer steps."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from tensordict import TensorDictBase
from torch import Tensor
from torch.optim import Optimizer

from memo_lightning.models.feed_forward import compile_feed_forwards
from memo_lightning.algorithms import PPO, DrawPass, Experience
from memo_lightning.policies import MemoryPolicy
from memo_lightning.policies.input_history import shuffle_episodes
from memo_lightning.training.update_guard import UpdateGuard


class PolicyLearner(lightning.LightningModule):
    """Trains a policy on rollouts.

    A rollout may come in chunks. A *partial update* after each chunk but the last learns from the new steps only,
    seen from all that the row has held so far; a *full update* after the last learns from all of them. Partial
    updates leave the acting policy with a memory that older weights made; it refreshes that by itself.

    Frames (environment steps of all ranks) are the x-axis of every metric; complete rollouts are logged. The Trainer
    must be told so by ``log_every_n_steps``, or it logs the figures of a rollout again with the chunks of the next.

    Args:
        policy: the policy that acts and is trained.
        algorithm: makes losses of rollouts, and says how to optimise them.
        config: the run's resolved configuration; kept in checkpoints, so that the policy can be rebuilt.
        rollout_length: steps T of a complete rollout.
        n_actors: copies of the policy that act, each for an equal share of the rows; each shuffles its own.
    """

    def __init__(
        self, policy: MemoryPolicy, algorithm: PPO, config: dict[str, Any], rollout_length: int, n_actors: int = 1
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy = policy
        self.algorithm = algorithm
        self.config = config
        self.rollout_length, self.n_actors = rollout_length, n_actors
        self.guard = UpdateGuard(algorithm.max_skipped_updates)
        self.frames, self.rollouts_done = 0, 0
        self._rollout: TensorDictBase | None = None  # what has been collected of the rollout that is not complete
        self._partial_updates: list[dict[str, Tensor]] = []  # their figures, of that rollout

    @property
    def in_rollout(self) -> bool:
        """Whether the rollout that was learned from last is still incomplete."""
        return self._rollout is not None

    def configure_optimizers(self) -> Optimizer:
        """Return Adam over all parameters; every update sets its learning rate."""
        return torch.optim.Adam(self.parameters(), lr=self.algorithm.learning_rate)

    def setup(self, stage: str) -> None:
        """Compile the MLPs of the memory that the callbacks have left."""
        if self.config["compile"]:
            compile_feed_forwards(self.policy.sequence_model)

    def on_train_start(self) -> None:
        """Build the loss, now that the policy has its final parts and device."""
        self.algorithm.attach(self.policy)

    def training_step(self, chunk: TensorDictBase, batch_idx: int) -> None:
        """Learn from the next chunk ``[B, t]`` of a rollout."""
        rollout = chunk if self._rollout is None else torch.cat([self._rollout, chunk], dim=1)
        is_complete = rollout.shape[1] == self.rollout_length
        first = 0 if is_complete else rollout.shape[1] - chunk.shape[1]
        stale_values = is_complete and self._rollout is not None
        # Of the run and not of the rank: ranks that drew different lengths or layers would wait for the slower one.
        generator = torch.Generator().manual_seed(self.config["seed"] + self.frames)
        draw_pass = partial(self.policy.sequence_model.draw_pass, generator)
        experience = self.algorithm.prepare(self.policy, rollout, draw_pass, first, stale_values=stale_values)
        new_frames = chunk.numel() * self.trainer.world_size
        learning_rate = self._set_learning_rate(self.frames + new_frames / 2)
        metrics = self._optimise(experience, draw_pass)
        metrics["learning_rate"] = torch.tensor(learning_rate)
        self.frames += new_frames
        if is_complete:
            self._rollout = None
            self.rollouts_done += 1
            self._log(metrics, batch_size=len(rollout))
        else:
            self._partial_updates.append(metrics)
            self.policy.weights_version += 1
            if self.algorithm.shuffle_episodes:
                seed = int(self.policy.weights_version)
                rollout = torch.cat([shuffle_episodes(rows, seed) for rows in rollout.chunk(self.n_actors)])
            self._rollout = rollout

    def _log(self, full_update: dict[str, Tensor], batch_size: int) -> None:
        """Log the updates of a rollout that is complete: means over the partial ones, and the full one."""
        metrics = {f"update/{name}": value for name, value in full_update.items()}
        if self._partial_updates:
            for name in full_update:
                # A memory may have nothing to add to the loss before the first segment is complete.
                values = [update[name] for update in self._partial_updates if name in update]
                if values:
                    metrics[f"partial_update/{name}"] = torch.stack(values).mean()
            self._partial_updates.clear()
        metrics["update/skipped"] = torch.tensor(float(self.guard.skipped))  # of the whole run, so far
        means = {name: value.to(self.device) for name, value in metrics.items()}
        self.log_dict(means, batch_size=batch_size, sync_dist=True)
        self.log("step", float(self.frames), batch_size=batch_size)  # Lightning's name for the x-axis

    def _set_learning_rate(self, frames: float) -> float:
        """Set the learning rate of the update whose new frames have ``frames`` as their middle, and return it."""
        rate = self.algorithm.learning_rate_at(frames, self.config["total_frames"])
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _optimise(self, experience: Experience, draw_pass: DrawPass) -> dict[str, Tensor]:
        """Make the epochs of one update; return means over its minibatches."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        target_kl = self.algorithm.target_kl
        history: dict[str, list[Tensor]] = defaultdict(list)
        for _ in range(self.algorithm.n_epochs):
            for minibatch in self.algorithm.minibatches(experience, draw_pass):
                loss, metrics = self.algorithm.loss(self.policy, minibatch)
                optimizer.zero_grad()
                self.manual_backward(loss + self._nothing_of_all_weights())
                norm = self._clip_gradients()
                is_finite = bool(norm.isfinite())  # of the mean gradient of all ranks, so they decide alike
                if is_finite or self._gradient_scaler is not None:  # which skips by itself, and learns from it
                    optimizer.step()
                self.guard.count(is_finite, self.policy, loss, minibatch)
                for name, value in {**metrics, "gradient_norm": norm}.items():
                    history[name].append(value)
            kl = torch.stack(history["kl"][-self.algorithm.n_minibatches :]).mean()
            history["kl_of_epoch"].append(kl)
            # Ranks that made different numbers of steps would wait for each other for ever.
            if target_kl is not None and float(self.trainer.strategy.reduce(kl, reduce_op="mean")) > target_kl:
                break
        kl_by_epoch = history.pop("kl_of_epoch")
        means = {name: torch.stack(values).nanmean() for name, values in history.items()}
        return {**means, "epochs": torch.tensor(float(len(kl_by_epoch))), "kl_first_epoch": kl_by_epoch[0]}

    def _nothing_of_all_weights(self) -> Tensor:
        """Return zero, with a gradient of zero for every weight.

        A pass that ends before its first segment does not use the weights that write summaries, and one that drops
        layers not theirs. DDP would wait for their gradient, and Adam would count every weight's steps differently.
        """
        return 0.0 * torch.stack([weight.sum() for weight in self.parameters()]).sum()

    @property
    def _gradient_scaler(self) -> torch.amp.GradScaler | None:
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _clip_gradients(self) -> Tensor:
        """Scale the gradients down to the largest norm that is allowed; return their norm before."""
        scale = self._gradient_scaler.get_scale() if self._gradient_scaler else 1.0  # of 16-bit gradients
        return torch.nn.utils.clip_grad_norm_(self.parameters(), self.algorithm.max_grad_norm * scale) / scale

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what it takes to rebuild the run: plain values only, so that loading needs no pickle."""
        checkpoint["frames"], checkpoint["rollouts_done"] = self.frames, self.rollouts_done
        checkpoint["update_guard"] = self.guard.state_dict()
        checkpoint["config"] = self.config
        checkpoint["mlflow_run_id"] = getattr(self.logger, "run_id", None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore how far the run has come.

        Lightning's own count of batches is left out: it would end a finished run that is to go on for longer.
        """
        checkpoint.pop("loops")
        self.frames, self.rollouts_done = checkpoint["frames"], checkpoint["rollouts_done"]
        self.guard.load_state_dict(checkpoint["update_guard"])
