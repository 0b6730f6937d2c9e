"""What an algorithm is: everything between a batch of experience and the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.optim import Optimizer

from memo_lightning.algorithms.schedule import Schedule, check_schedule, learning_rate_factor
from memo_lightning.construct import construct
from memo_lightning.errors import UserError, require
from memo_lightning.policies import MemoryPolicy
from memo_lightning.policies.heads import PolicyHeads

Metrics = dict[str, Tensor]


class TrainingRun(Protocol):
    """What an algorithm needs of the run that it is part of; the LightningModule provides it.

    Attributes:
        policy: the policy that acts and is trained.
        frames: environment steps of all ranks, those of the batch at hand not included.
        new_frames: environment steps of all ranks in the batch at hand.
        total_frames: when the run ends.
        seed: of the run.
    """

    policy: MemoryPolicy
    frames: int
    new_frames: int
    total_frames: int
    seed: int

    def make_step(self, loss: Tensor, inputs: Mapping[str, TensorDictBase]) -> Tensor:
        """Make one step down ``loss``, unless its gradient is not finite; return the gradient's norm before clipping.

        Args:
            loss: a scalar.
            inputs: what the loss was computed on, by name, for a message that says what was not finite.
        """
        ...

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, the same on each."""
        ...

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all ranks, the same on each."""
        ...


class Algorithm(nn.Module, ABC):
    """Owns what is its own: heads, losses, target networks, optimizer, the update loop, and the data that it wants.

    The LightningModule hands it every batch, counts frames, and logs what it returns. Its parameters and buffers, such
    as those of target networks, are part of checkpoints, and so is :meth:`progress`.

    Args:
        learning_rate: of the optimizer.
        warmup_frames: environment steps over which the learning rate rises from zero.
        schedule: ``constant``, or ``cosine`` to let it fall to zero at the end of the run.
        optimizer: makes the optimizer of parameters and a learning rate.
        max_grad_norm: gradients are scaled down to this norm.
        max_skipped_updates: how many updates in a row may have a loss or gradient that is not finite; such an update
            is skipped.

    Raises:
        UserError: if a setting is out of range.
    """

    heads: ClassVar[type[PolicyHeads]]

    def __init__(
        self,
        *,
        learning_rate: float,
        warmup_frames: int,
        schedule: Schedule,
        optimizer: Callable[..., Optimizer],
        max_grad_norm: float,
        max_skipped_updates: int,
    ) -> None:
        super().__init__()
        for name, value in {"learning_rate": learning_rate, "max_grad_norm": max_grad_norm}.items():
            require(value > 0, f"algorithm.{name}", value, "greater than 0")
        require(warmup_frames >= 0, "algorithm.warmup_frames", warmup_frames, "at least 0")
        require(max_skipped_updates >= 1, "algorithm.max_skipped_updates", max_skipped_updates, "at least 1")
        check_schedule(schedule)
        self.learning_rate, self.warmup_frames, self.schedule = learning_rate, warmup_frames, schedule
        self.max_grad_norm, self.max_skipped_updates = max_grad_norm, max_skipped_updates
        self._optimizer = optimizer
        self._make_optimizer([nn.Parameter(torch.zeros(1))])  # so that wrong settings are refused here

    @property
    def in_rollout(self) -> bool:
        """Whether more is to be learned from what comes next, so that this is no place for a checkpoint."""
        return False

    def check_n_envs(self, n_envs: int) -> None:
        """Raise :class:`UserError` unless the settings make sense for experience of ``n_envs`` environments."""

    @abstractmethod
    def check_data(self, data: Any) -> None:
        """Raise :class:`UserError` unless the algorithm can learn from what a LightningDataModule provides."""

    def prepare_policy(self, policy: MemoryPolicy, data: Any) -> None:
        """Build what a checkpoint is read into, and tell a policy that has not acted yet what it is to keep."""

    def plan_storage(
        self, policy: MemoryPolicy, data: Any, run_dir: Path, n_processes: int, *, is_resumed: bool
    ) -> list[str]:
        """Check, before anything is written, that what the algorithm keeps on disk fits; return lines that say so.

        Of a run that is resumed, :meth:`load_progress` comes first.

        Args:
            policy: the policy, as it will act.
            data: where batches come from.
            run_dir: the folder of the run.
            n_processes: how many processes train.
            is_resumed: whether the run has been there before.

        Raises:
            UserError: if it does not fit.
        """
        return []

    @abstractmethod
    def attach(self, policy: MemoryPolicy, data: Any) -> None:
        """Build what needs the policy's final parts and device, now that training begins."""

    def configure_optimizers(self, policy: MemoryPolicy) -> Optimizer:
        """Return the optimizer; every update sets its learning rate."""
        return self._make_optimizer(list(policy.parameters()))

    def learning_rate_at(self, frames: float, total_frames: int) -> float:
        """Return the learning rate at ``frames`` of ``total_frames``."""
        return self.learning_rate * learning_rate_factor(frames, total_frames, self.warmup_frames, self.schedule)

    @abstractmethod
    def update(self, batch: TensorDictBase, run: TrainingRun) -> Metrics | None:
        """Learn from the next batch.

        Returns:
            What is to be logged, by name; None while there is more to come first.
        """

    def progress(self) -> dict[str, Any]:
        """Return what a resumed run must know beside parameters and buffers, as plain values and tensors."""
        return {}

    def load_progress(self, progress: Mapping[str, Any]) -> None:
        """Restore it."""

    def checkpoint_saved(self) -> None:
        """Note that what :meth:`progress` said last is safe, and nothing older is needed."""

    def _make_optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        made = self._optimizer
        target, settings = (made.func, made.keywords) if isinstance(made, partial) else (made, {})
        if "lr" in settings:
            raise UserError(f"algorithm.optimizer.lr={settings['lr']}: is set by algorithm.learning_rate")
        return construct(target, parameters, lr=self.learning_rate, **settings)
