"""What callbacks that act between rollouts have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import lightning

from memo_lightning.training.learner import PolicyLearner


class AfterRollout(lightning.Callback, ABC):
    """Acts whenever a complete rollout has been learned from, not after the chunks that a rollout may come in."""

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
        """Tell whether it is time."""
        assert isinstance(pl_module, PolicyLearner)
        if not pl_module.in_rollout:
            self.after_rollout(trainer, pl_module)
