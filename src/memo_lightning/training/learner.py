"""The LightningModule: one rollout is one training step, which makes many optimizer steps."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from tensordict import TensorDictBase
from torch import Tensor
from torch.optim import Optimizer

from memo_lightning.objectives import PPO
from memo_lightning.policies import MemoryPolicy


class PolicyLearner(lightning.LightningModule):
    """Trains a policy on rollouts.

    Frames (environment steps of all ranks) are the x-axis of every metric.

    Args:
        policy: the policy that acts and is trained.
        algorithm: makes losses of rollouts, and says how to optimise them.
        config: the run's resolved configuration; kept in checkpoints, so that the policy can be rebuilt.
    """

    def __init__(self, policy: MemoryPolicy, algorithm: PPO, config: dict[str, Any]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy = policy
        self.algorithm = algorithm
        self.config = config
        self.frames, self.rollouts_done = 0, 0

    def configure_optimizers(self) -> Optimizer:
        """Return Adam over all parameters."""
        return torch.optim.Adam(self.parameters(), lr=self.algorithm.learning_rate)

    def on_train_start(self) -> None:
        """Build the loss, now that the policy has its final parts and device."""
        self.algorithm.attach(self.policy)

    def training_step(self, rollout: TensorDictBase, batch_idx: int) -> None:
        """Learn from one rollout ``[B, T]``."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        rows = self.algorithm.prepare(self.policy, rollout)
        history: dict[str, list[Tensor]] = defaultdict(list)
        for _ in range(self.algorithm.n_epochs):
            for minibatch in self.algorithm.minibatches(rows):
                loss, metrics = self.algorithm.loss(self.policy, minibatch)
                optimizer.zero_grad()
                self.manual_backward(loss)
                norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.algorithm.max_grad_norm)
                optimizer.step()
                for name, value in {**metrics, "gradient_norm": norm}.items():
                    history[name].append(value)

        self.frames += rollout.numel() * self.trainer.world_size
        self.rollouts_done += 1
        means = {f"update/{name}": torch.stack(values).mean() for name, values in history.items()}
        self.log_dict(means, batch_size=rollout.shape[0], sync_dist=True)
        self.log("step", float(self.frames), batch_size=rollout.shape[0])  # Lightning's name for the x-axis

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what it takes to rebuild the run: plain values only, so that loading needs no pickle."""
        checkpoint["frames"], checkpoint["rollouts_done"] = self.frames, self.rollouts_done
        checkpoint["config"] = self.config
        checkpoint["mlflow_run_id"] = getattr(self.logger, "run_id", None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore how far the run has come.

        Lightning's own count of batches is left out: it would end a finished run that is to go on for longer.
        """
        checkpoint.pop("loops")
        self.frames, self.rollouts_done = checkpoint["frames"], checkpoint["rollouts_done"]
