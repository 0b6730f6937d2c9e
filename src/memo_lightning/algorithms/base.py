"""The interface of learning algorithms: everything between a batch of experience and the weights."""

from __future__ import annotations

import inspect
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
from memo_lightning.construct import check_types, construct
from memo_lightning.errors import UserError, require
from memo_lightning.policies import MemoryPolicy
from memo_lightning.policies.heads import PolicyHeads

Metrics = dict[str, Tensor]


class TrainingRun(Protocol):
    """What an algorithm needs from its training run; the LightningModule provides it.

    Attributes:
        policy: the policy that acts and is trained.
        frames: environment steps of all ranks before the current batch.
        new_frames: environment steps of all ranks in the current batch.
        total_frames: environment steps at which the run ends.
        seed: seed of the run.
    """

    policy: MemoryPolicy
    frames: int
    new_frames: int
    total_frames: int
    seed: int

    def make_step(self, loss: Tensor, inputs: Mapping[str, TensorDictBase]) -> Tensor:
        """Take one optimizer step on ``loss`` if its gradient is finite; return the gradient norm before clipping.

        Args:
            loss: a scalar.
            inputs: the data that the loss was computed on, by name, for a message that says what was not finite.
        """
        ...

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, the same on each."""
        ...

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all ranks, the same on each."""
        ...


class Algorithm(nn.Module, ABC):
    """The base of all algorithms, which own their heads, losses, target networks, optimizer and update loop.

    An algorithm also decides which data it needs. The LightningModule passes it every batch, counts frames, and logs
    what it returns. Checkpoints include its parameters and buffers, such as those of target networks, and
    :meth:`progress`.

    Args:
        learning_rate: learning rate of the optimizer.
        warmup_frames: environment steps over which the learning rate rises from zero.
        schedule: ``constant``, or ``cosine`` to let the learning rate fall to zero by the end of the run.
        optimizer: builds the optimizer from parameters and a learning rate.
        max_grad_norm: largest norm of the gradient; larger gradients are scaled down to it.
        max_skipped_updates: the run ends after this many updates in a row with a loss or gradient that is not finite;
            such updates are skipped.

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
        self._make_optimizer([nn.Parameter(torch.zeros(1))])  # so that wrong settings are rejected here

    @property
    def in_rollout(self) -> bool:
        """Whether the current rollout is still incomplete, so that no checkpoint can be written now."""
        return False

    def check_n_envs(self, n_envs: int) -> None:
        """Raise :class:`UserError` unless the settings suit experience from ``n_envs`` environments."""

    def check_trial_length(self, n_steps: int) -> None:
        """Raise :class:`UserError` unless the algorithm can learn from trials of at most ``n_steps`` steps."""

    @abstractmethod
    def check_data(self, data: Any) -> None:
        """Raise :class:`UserError` unless the algorithm can learn from what a LightningDataModule provides."""

    def prepare_policy(self, policy: MemoryPolicy, data: Any) -> None:
        """Build what a checkpoint is loaded into, and tell the policy what to keep before it acts."""

    def plan_storage(
        self, policy: MemoryPolicy, data: Any, run_dir: Path, n_processes: int, *, is_resumed: bool
    ) -> list[str]:
        """Check, before anything is written, that the algorithm's data fits on disk; return lines that say so.

        In a resumed run, :meth:`load_progress` is called first.

        Args:
            policy: the policy, as it will act.
            data: where batches come from.
            run_dir: the folder of the run.
            n_processes: number of processes that train.
            is_resumed: whether the run is resumed.

        Raises:
            UserError: if the data does not fit.
        """
        return []

    @abstractmethod
    def attach(self, policy: MemoryPolicy, data: Any) -> None:
        """Build what needs the policy's final parts and device, as training begins."""

    def configure_optimizers(self, policy: MemoryPolicy) -> Optimizer:
        """Return the optimizer; every update sets its learning rate."""
        return self._make_optimizer(list(policy.parameters()))

    def learning_rate_at(self, frames: float, total_frames: int) -> float:
        """Return the learning rate at ``frames`` of ``total_frames`` environment steps."""
        return self.learning_rate * learning_rate_factor(frames, total_frames, self.warmup_frames, self.schedule)

    @abstractmethod
    def update(self, batch: TensorDictBase, run: TrainingRun) -> Metrics | None:
        """Learn from the next batch.

        Returns:
            The metrics to log, by name; None while more of the rollout is to come.
        """

    def progress(self) -> dict[str, Any]:
        """Return what a resumed run needs besides parameters and buffers, as plain values and tensors."""
        return {}

    def load_progress(self, progress: Mapping[str, Any]) -> None:
        """Restore what :meth:`progress` returned."""

    def checkpoint_saved(self) -> None:
        """React to a saved checkpoint: nothing older than the latest :meth:`progress` is needed any more."""

    def _make_optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        made = self._optimizer
        target, settings = (made.func, made.keywords) if isinstance(made, partial) else (made, {})
        if "lr" in settings:
            raise UserError(f"algorithm.optimizer.lr={settings['lr']}: set algorithm.learning_rate instead")
        check_types(target, settings, "algorithm.optimizer.")
        try:
            optimizer = construct(target, parameters, lr=self.learning_rate, **settings)
        except UserError:
            raise
        except Exception as error:  # optimizers raise whatever their arithmetic does
            raise UserError(f"algorithm.optimizer: {' '.join(str(error).split())}; got {settings}") from None
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise UserError(f"algorithm.optimizer._target_={target.__qualname__}: must not need a closure")
        return optimizer
