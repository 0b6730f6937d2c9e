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

_TIME_IS_UP = signal.SIGUSR2  # not SIGALRM, which interrupts environments that hang


class Preemption(AfterRollout):
    """Callback that ends the run with a checkpoint when SIGTERM arrives, by raising :class:`Preempted`.

    The current rollout is finished, learned from and saved if that takes no longer than ``grace_seconds``; otherwise it
    is given up, and the checkpoint before it remains. All ranks stop at the same rollout, whichever of them received
    the signal.

    Args:
        grace_seconds: how long the current rollout may still take after SIGTERM. By default, SLURM kills a job 30 s
            after SIGTERM.

    Raises:
        UserError: if ``grace_seconds`` is not positive.
    """

    def __init__(self, grace_seconds: float = 10.0) -> None:
        require(grace_seconds > 0, "callbacks.preemption.grace_seconds", grace_seconds, "greater than 0")
        self.grace_seconds = grace_seconds

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take over SIGTERM from Lightning, which restores the handlers at the end."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread can handle signals
        assert isinstance(pl_module, PolicyLearner)
        notice = pl_module.preemption

        def ask(signum: int, frame: FrameType | None) -> None:
            if notice.asked:
                return
            notice.asked = True
            launcher = trainer.strategy.launcher
            if launcher is not None:
                launcher.kill(signal.SIGTERM)  # the ranks started by this one
            notice.call_after(self.grace_seconds, signal.pthread_kill, threading.get_ident(), _TIME_IS_UP)
            # In case the signal is not handled, for example while a library call blocks.
            notice.call_after(2 * self.grace_seconds, os._exit, PREEMPTED)

        def give_up(signum: int, frame: FrameType | None) -> None:
            _end(pl_module)

        signal.signal(signal.SIGTERM, ask)
        signal.signal(_TIME_IS_UP, give_up)

    def after_rollout(self, trainer: lightning.Trainer, learner: PolicyLearner) -> None:
        """End the run here if any rank was asked to."""
        if trainer.strategy.reduce_boolean_decision(learner.preemption.asked, all=False):
            callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]
            for callback in callbacks:
                if isinstance(callback, Checkpointing):
                    callback.save(trainer)
            _end(learner)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """End here if SIGTERM came after the last rollout: the report can be written when the run is resumed."""
        assert isinstance(pl_module, PolicyLearner)
        if pl_module.preemption.asked:
            _end(pl_module)


def _end(learner: PolicyLearner) -> NoReturn:
    learner.preemption.cancel_first()
    raise Preempted
