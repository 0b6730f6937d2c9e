"""The base class of callbacks that act between rollouts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import lightning

from memo_lightning.training.learner import PolicyLearner


class AfterRollout(lightning.Callback, ABC):
    """Callback that acts when a complete rollout has been learned from, not after each of its chunks."""

    @abstractmethod
    def after_rollout(self, trainer: lightning.Trainer, learner: PolicyLearner) -> None:
        """Act; called on all ranks, after the same rollouts."""

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Call :meth:`after_rollout` if the rollout is complete."""
        assert isinstance(pl_module, PolicyLearner)
        if not pl_module.in_rollout:
            self.after_rollout(trainer, pl_module)
