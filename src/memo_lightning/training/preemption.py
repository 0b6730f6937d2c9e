"""Preemption by SIGTERM: the machine is needed elsewhere, and the run is resumed later or on another machine."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from memo_lightning.errors import Preempted


class PreemptionNotice:
    """Whether SIGTERM has arrived in this run, and the timers that enforce its deadlines.

    Attributes:
        asked: whether SIGTERM has arrived.
    """

    def __init__(self) -> None:
        self.asked = False
        self._timers: list[threading.Timer] = []

    def call_after(self, seconds: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function after ``seconds``, unless the run has ended by then."""
        timer = threading.Timer(seconds, function, arguments)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def cancel_first(self) -> None:
        """Cancel the first call: what it was meant to trigger is already happening."""
        for timer in self._timers[:1]:
            timer.cancel()

    def disarm(self) -> None:
        """Cancel all calls: the run has ended."""
        for timer in self._timers:
            timer.cancel()


@contextmanager
def preemptible() -> Iterator[None]:
    """Make SIGTERM raise :class:`Preempted` in the block, until the Preemption callback takes it over."""
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
