"""The checkpoint of a run: ``checkpoints/last.ckpt``, always complete."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning

from memo_lightning.errors import require
from memo_lightning.training.learner import PolicyLearner


def checkpoint_path(run_dir: Path) -> Path:
    """Return where the checkpoint of the run in ``run_dir`` lies."""
    return run_dir / "checkpoints" / "last.ckpt"


class Checkpointing(lightning.Callback):
    """Saves the run after every few rollouts, and at its start, so that there always is something to go on from.

    Checkpoints are made between rollouts only: there, weights, optimizer and counters are all there is to a run,
    and going on from them is exact. Lightning's own ModelCheckpoint counts optimizer steps, of which a rollout
    makes many. A checkpoint is written beside the old one and then takes its place in one step.

    Args:
        run_dir: the run's folder.
        every_n_rollouts: rollouts between checkpoints.

    Raises:
        UserError: if ``every_n_rollouts`` is not positive.
    """

    def __init__(self, run_dir: str | Path, every_n_rollouts: int = 1) -> None:
        require(every_n_rollouts >= 1, "callbacks.checkpointing.every_n_rollouts", every_n_rollouts, "at least 1")
        self.path = checkpoint_path(Path(run_dir))
        self.every_n_rollouts = every_n_rollouts

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save a run that has learned nothing yet."""
        if not self.path.exists():
            self.save(trainer)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if it is time."""
        assert isinstance(pl_module, PolicyLearner)
        if not pl_module.in_rollout and pl_module.rollouts_done % self.every_n_rollouts == 0:
            self.save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the finished run."""
        self.save(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Write ``last.ckpt``."""
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())  # a machine that loses power must not be left with an empty file
            partial.replace(self.path)
