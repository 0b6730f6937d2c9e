"""Ending a run with a checkpoint when SIGTERM arrives."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import NoReturn

import lightning

from memo_lightning.callbacks.after_rollout import AfterRollout
from memo_lightning.callbacks.checkpointing import Checkpointing
from memo_lightning.errors import PREEMPTED, Preempted, require
from memo_lightning.training.learner import PolicyLearner

_TIME_IS_UP = signal.SIGUSR2  # SIGALRM interrupts environments that hang


class Preemption(AfterRollout):
    """Ends the run with a checkpoint when SIGTERM arrives, by raising :class:`Preempted`.

    The rollout under way is finished, learned from and saved if that takes no longer than ``grace_seconds``;
    otherwise it is given up, as the checkpoint before it is complete. All ranks stop at the same rollout,
    whichever of them was told.

    Args:
        grace_seconds: how long the rollout under way may take. SLURM kills 30 s after SIGTERM by default.

    Raises:
        UserError: if ``grace_seconds`` is not positive.
    """

    def __init__(self, grace_seconds: float = 10.0) -> None:
        require(grace_seconds > 0, "callbacks.preemption.grace_seconds", grace_seconds, "greater than 0")
        self.grace_seconds = grace_seconds

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take SIGTERM over from Lightning, which puts the handlers back at the end."""
        if threading.current_thread() is not threading.main_thread():
            return  # signals belong to the main thread's program
        assert isinstance(pl_module, PolicyLearner)
        notice = pl_module.preemption

        def ask(signum: int, frame: FrameType | None) -> None:
            if notice.asked:
                return
            notice.asked = True
            launcher = trainer.strategy.launcher
            if launcher is not None:
                launcher.kill(signal.SIGTERM)  # the ranks that this one has started
            notice.call_after(self.grace_seconds, signal.pthread_kill, threading.get_ident(), _TIME_IS_UP)
            # For where no signal is heard, as in a library that waits.
            notice.call_after(2 * self.grace_seconds, os._exit, PREEMPTED)

        def give_up(signum: int, frame: FrameType | None) -> None:
            _end(pl_module)

        signal.signal(signal.SIGTERM, ask)
        signal.signal(_TIME_IS_UP, give_up)

    def after_rollout(self, trainer: lightning.Trainer, learner: PolicyLearner) -> None:
        """End here if any rank was asked to."""
        if trainer.strategy.reduce_boolean_decision(learner.preemption.asked, all=False):
            callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]
            for callback in callbacks:
                if isinstance(callback, Checkpointing):
                    callback.save(trainer)
            _end(learner)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """End here if SIGTERM has come since the last rollout: the report can be made when the run is resumed."""
        assert isinstance(pl_module, PolicyLearner)
        if pl_module.preemption.asked:
            _end(pl_module)


def _end(learner: PolicyLearner) -> NoReturn:
    learner.preemption.cancel_first()
    raise Preempted
