"""SIGTERM: the machine is wanted back, and the run is to be resumed elsewhere or later."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from memo_lightning.errors import Preempted


class PreemptionNotice:
    """Whether SIGTERM has arrived in this run, and what is to happen when its time is up.

    Attributes:
        asked: whether it has arrived.
    """

    def __init__(self) -> None:
        self.asked = False
        self._timers: list[threading.Timer] = []

    def call_after(self, seconds: float, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in a while, unless the run has ended by then."""
        timer = threading.Timer(seconds, function, arguments)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def cancel_first(self) -> None:
        """Do not make the first of the calls: what it was to bring about is happening."""
        for timer in self._timers[:1]:
            timer.cancel()

    def disarm(self) -> None:
        """Make none of the calls: the run has ended."""
        for timer in self._timers:
            timer.cancel()


@contextmanager
def preemptible() -> Iterator[None]:
    """Let SIGTERM raise :class:`Preempted` in the block, before the Preemption callback has taken it over."""
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
