"""The checkpoint of a run: ``checkpoints/last.ckpt``, always complete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning

from memo_lightning.callbacks.after_rollout import AfterRollout
from memo_lightning.errors import require
from memo_lightning.training.checkpoint_io import AtomicCheckpointIO
from memo_lightning.training.learner import PolicyLearner
from memo_lightning.training.run_dir import checkpoint_path

if TYPE_CHECKING:
    from memo_lightning.tracking.run_logger import RunLogger


class Checkpointing(AfterRollout):
    """Callback that saves the run at its start and after every few rollouts, so that it can always be resumed.

    Checkpoints are only written between rollouts: there, weights, optimizer and counters are the whole state of a run,
    and resuming from them is exact. Lightning's own ModelCheckpoint counts optimizer steps, of which there are many
    per rollout.

    Args:
        run_dir: folder of the run.
        every_n_rollouts: number of rollouts between checkpoints.

    Raises:
        UserError: if ``every_n_rollouts`` is not positive.
    """

    def __init__(self, run_dir: str | Path, every_n_rollouts: int = 1) -> None:
        require(every_n_rollouts >= 1, "callbacks.checkpointing.every_n_rollouts", every_n_rollouts, "at least 1")
        self.path = checkpoint_path(Path(run_dir))
        self.every_n_rollouts = every_n_rollouts

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Make all processes use one folder: a default name contains the time, which each reads for itself."""
        self.path = trainer.strategy.broadcast(self.path)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save a new run before it has learned anything."""
        if not trainer.strategy.broadcast(self.path.exists()):
            self.save(trainer)

    def after_rollout(self, trainer: lightning.Trainer, learner: PolicyLearner) -> None:
        """Save after every ``every_n_rollouts`` rollouts."""
        if learner.rollouts_done % self.every_n_rollouts == 0:
            self.save(trainer)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the metrics that are not in MLflow yet: Lightning logs those of a rollout after the callbacks run."""
        logger: RunLogger | None = trainer.logger  # type: ignore[assignment]
        if logger:
            metrics = {name: float(value) for name, value in trainer.logged_metrics.items()}
            step = int(metrics.pop("step", 0))
            checkpoint["unsent_metrics"] = logger.unsent(metrics, step)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the finished run, unless it was stopped in the middle of a rollout: the checkpoint before it remains."""
        assert isinstance(pl_module, PolicyLearner)
        if not pl_module.in_rollout:
            self.save(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Write ``last.ckpt``; all processes must call this."""
        trainer.save_checkpoint(self.path)
        checkpoint_io = trainer.strategy.checkpoint_io
        is_safe = not (isinstance(checkpoint_io, AtomicCheckpointIO) and checkpoint_io.error)
        if trainer.strategy.broadcast(is_safe):  # the first process writes
            learner = trainer.lightning_module
            assert isinstance(learner, PolicyLearner)
            learner.algorithm.checkpoint_saved()
