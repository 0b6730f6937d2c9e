"""SIGTERM: the machine is wanted back, and the run is to go on elsewhere or later."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

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

    Attributes:
        asked: whether SIGTERM has arrived.

    Raises:
        UserError: if ``grace_seconds`` is not positive.
    """

    def __init__(self, grace_seconds: float = 10.0) -> None:
        require(grace_seconds > 0, "callbacks.preemption.grace_seconds", grace_seconds, "greater than 0")
        self.grace_seconds = grace_seconds
        self.asked = False
        self._timers: list[threading.Timer] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take SIGTERM over from Lightning, which puts the handlers back at the end."""
        if threading.current_thread() is not threading.main_thread():
            return  # signals belong to the main thread's program

        def ask(signum: int, frame: FrameType | None) -> None:
            if self.asked:
                return
            self.asked = True
            launcher = trainer.strategy.launcher
            if launcher is not None:
                launcher.kill(signal.SIGTERM)  # the ranks that this one has started
            self._call_after(self.grace_seconds, signal.pthread_kill, threading.get_ident(), _TIME_IS_UP)
            # For where no signal is heard, as in a library that waits.
            self._call_after(2 * self.grace_seconds, os._exit, PREEMPTED)

        signal.signal(signal.SIGTERM, ask)
        signal.signal(_TIME_IS_UP, self._end)

    def _call_after(self, seconds: float, function: Callable[..., object], *arguments: Any) -> None:
        timer = threading.Timer(seconds, function, arguments)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def after_rollout(self, trainer: lightning.Trainer, learner: PolicyLearner) -> None:
        """End here if any rank was asked to."""
        if trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]
            for callback in callbacks:
                if isinstance(callback, Checkpointing):
                    callback.save(trainer)
            self._end()

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """End here if SIGTERM has come since the last rollout: the report can be made when the run goes on."""
        if self.asked:
            self._end()

    def _end(self, *_: object) -> NoReturn:
        for timer in self._timers[:1]:
            timer.cancel()
        raise Preempted

    def disarm(self) -> None:
        """Give up ending the process: the run has ended."""
        for timer in self._timers:
            timer.cancel()


@contextmanager
def preemptible() -> Iterator[None]:
    """Let SIGTERM raise :class:`Preempted` in the block, too, before :class:`Preemption` has taken it over."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(signum: int, frame: FrameType | None) -> None:
        raise Preempted("stopped by SIGTERM before training began")

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
