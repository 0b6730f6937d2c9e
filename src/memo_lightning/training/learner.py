"""The LightningModule, which passes batches to the algorithm and counts, guards and logs its updates."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from tensordict import TensorDictBase
from torch import Tensor
from torch.optim import Optimizer

from memo_lightning.algorithms import Algorithm
from memo_lightning.data import RolloutDataModule
from memo_lightning.data.collector import STEPS
from memo_lightning.models.compiled import compile_parts
from memo_lightning.models.device import prepare_device
from memo_lightning.policies import MemoryPolicy, PolicySpec
from memo_lightning.policies.checkpoint import FORMAT, FORMAT_KEY
from memo_lightning.training.preemption import PreemptionNotice
from memo_lightning.training.update_guard import UpdateGuard
from memo_lightning.version import __version__


class PolicyLearner(lightning.LightningModule):
    """LightningModule that trains a policy with an algorithm.

    It implements :class:`~memo_lightning.algorithms.TrainingRun`, the algorithm's view of a run.

    Frames (environment steps of all ranks) are the x-axis of every metric. Metrics are logged once per complete
    rollout. The Trainer's ``log_every_n_steps`` must be the number of chunks per rollout, or it logs the metrics of a
    rollout again with the chunks of the next.

    Args:
        policy: the policy that acts and is trained.
        algorithm: the algorithm that learns from the batches.
        config: the run's resolved configuration; kept in checkpoints, so that the run can be resumed.
        spec: the parts of the policy; kept in checkpoints, so that the policy can be rebuilt.

    Attributes:
        frames: environment steps of all ranks so far.
        rollouts_done: complete rollouts so far.
        preemption: whether SIGTERM has asked the run to stop.
        results: the content of ``metrics.json``; a callback fills it in at the end of training.
    """

    def __init__(
        self, policy: MemoryPolicy, algorithm: Algorithm, config: dict[str, Any], spec: PolicySpec | None = None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy, self.algorithm = policy, algorithm
        self.config, self.spec = config, spec
        self.total_frames: int = config["total_frames"]
        self.seed: int = config["seed"]
        self.guard = UpdateGuard(algorithm.max_skipped_updates)
        self.frames = self.new_frames = self.rollouts_done = 0
        self.preemption = PreemptionNotice()
        self.results: dict[str, Any] = {}

    @property
    def in_rollout(self) -> bool:
        """Whether the rollout that the last batch belongs to is still incomplete."""
        return self.algorithm.in_rollout

    @property
    def data(self) -> RolloutDataModule:
        """The data module that provides the batches."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_optimizers(self) -> Optimizer:
        """Return the algorithm's optimizer."""
        return self.algorithm.configure_optimizers(self.policy)

    def setup(self, stage: str) -> None:
        """Prepare the device and the memory, which a callback may have replaced."""
        prepare_device(self.trainer.strategy.root_device)
        if self.config["compile"]:
            compile_parts(self.policy.sequence_model, self.trainer.strategy.root_device)
        if self.config.get("cuda_graphs"):
            self.policy.record_passes()
            self._record_steps()

    def _record_steps(self) -> None:
        """Let the policy record its acting steps, if it can."""
        try:
            self.policy.record_steps(self.data.rollout_length)
        except ValueError as error:  # a memory or heads of the user's own
            print(f"cuda_graphs=true: training passes are recorded, acting steps are not; {error}", file=sys.stderr)

    def on_train_start(self) -> None:
        """Let the algorithm build its losses, now that the policy has its final parts and device."""
        self.algorithm.attach(self.policy, self.data)

    def training_step(self, batch: TensorDictBase, batch_idx: int) -> None:
        """Learn from the next batch."""
        steps = batch[STEPS]
        self.new_frames = steps.numel() * self.trainer.world_size
        self._rewards = steps.select(("next", "reward"))["next"]
        learning_rate = self._set_learning_rate(self.frames + self.new_frames / 2)
        metrics = self.algorithm.update(batch, self)
        self.frames += self.new_frames
        if metrics is None:
            return
        self.rollouts_done += 1
        metrics["update/learning_rate"] = torch.tensor(learning_rate)
        metrics["update/skipped"] = torch.tensor(float(self.guard.skipped))  # total over the run so far
        means = {name: value.to(self.device) for name, value in metrics.items()}
        self.log_dict(means, batch_size=len(steps), sync_dist=True)
        self.log("step", float(self.frames), batch_size=len(steps))  # Lightning's name for the x-axis

    def make_step(self, loss: Tensor, inputs: Mapping[str, TensorDictBase]) -> Tensor:
        """Take one optimizer step on ``loss``; see :class:`~memo_lightning.algorithms.TrainingRun`."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.zero_grad()
        if self.trainer.world_size > 1:
            loss = loss + self._zero_loss_for_ddp()
        self.manual_backward(loss)
        for weight in self.parameters():
            if weight.grad is None and weight.requires_grad:  # unused in this pass, but Adam must count the step
                weight.grad = torch.zeros_like(weight)
        norm = self._clip_gradients()
        is_finite = bool(norm.isfinite())  # gradients are averaged over ranks, so all ranks decide alike
        if is_finite or self._gradient_scaler is not None:  # the scaler skips by itself, and adapts to it
            optimizer.step()
        self.guard.count(is_finite, self.policy, loss, {"environment": self._rewards, **inputs})
        return norm

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, the same on each."""
        return self.trainer.strategy.reduce(value, reduce_op="sum")

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all ranks, the same on each."""
        return self.trainer.strategy.reduce(value, reduce_op="mean")

    def _set_learning_rate(self, frames: float) -> float:
        """Set and return the learning rate of an update whose new frames are centred on ``frames``."""
        rate = self.algorithm.learning_rate_at(frames, self.total_frames)
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _zero_loss_for_ddp(self) -> Tensor:
        """Return a zero loss with a zero gradient for every weight.

        DDP waits for the gradients of all weights. But a pass that ends within its first segment does not use the
        weights that write summaries, and a pass that drops layers does not use theirs.
        """
        return 0.0 * torch.stack([weight.sum() for weight in self.parameters() if weight.requires_grad]).sum()

    @property
    def _gradient_scaler(self) -> torch.amp.GradScaler | None:
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _clip_gradients(self) -> Tensor:
        """Clip the gradients to the maximum norm, and return their norm before clipping."""
        scale = self._gradient_scaler.get_scale() if self._gradient_scaler else 1.0  # of 16-bit gradients
        return torch.nn.utils.clip_grad_norm_(self.parameters(), self.algorithm.max_grad_norm * scale) / scale

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to resume the run and rebuild the policy, as plain values that load without pickle."""
        checkpoint[FORMAT_KEY], checkpoint["memo_version"] = FORMAT, __version__
        checkpoint["frames"], checkpoint["rollouts_done"] = self.frames, self.rollouts_done
        checkpoint["update_guard"], checkpoint["algorithm"] = self.guard.state_dict(), self.algorithm.progress()
        checkpoint["config"] = self.config
        checkpoint["policy_spec"] = self.spec.as_plain() if self.spec else None
        checkpoint["mlflow_run_id"] = getattr(self.logger, "run_id", None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the progress of the run.

        Lightning's own count of batches is dropped: it would end a finished run that is resumed to train for longer.
        """
        checkpoint.pop("loops")
        self.frames, self.rollouts_done = checkpoint["frames"], checkpoint["rollouts_done"]
        self.guard.load_state_dict(checkpoint["update_guard"])
        self.algorithm.load_progress(checkpoint["algorithm"])
