"""Saying whose error it is that an environment raises, and noticing one that hangs in this process."""

from __future__ import annotations

import itertools
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from memo_lightning.errors import EnvironmentFailure, UserError

_OWN_FILES = str(Path(__file__).parents[1])
_N_TICKS = 10  # of a timeout


@contextmanager
def named(what: str, *, also_mistakes: bool = True) -> Iterator[None]:
    """Say in every error that the environment raises whose it is.

    Args:
        what: names the environment.
        also_mistakes: put ``what`` before a :class:`UserError` too; not where it names a setting already.

    Raises:
        UserError: if it raises one.
        EnvironmentFailure: if it raises anything else, with its stack trace, from where ours ends.
    """
    try:
        yield
    except EnvironmentFailure:
        raise
    except UserError as error:
        raise (UserError(f"{what}: {error}") if also_mistakes else error) from None
    except Exception as error:  # the environment may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        while len(frames) > 1 and frames[0].filename.startswith(_OWN_FILES):
            del frames[0]
        trace = "".join(["Traceback (most recent call last):\n", *traceback.format_list(frames)])
        raise EnvironmentFailure(
            f"{what}: {type(error).__name__}: {error}\n{trace}{type(error).__name__}: {error}"
        ) from error


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """End what takes longer: an environment that waits or computes in Python is interrupted where it is.

    It works in the main thread; elsewhere, and for code of another language that never comes back to Python, only a
    worker process can be ended from outside. While the process is suspended (Ctrl-Z) no time passes.

    Raises:
        EnvironmentFailure: with the stack trace of where it was.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    ticks = itertools.count(1)

    def interrupt(_: int, frame: FrameType | None) -> None:
        if next(ticks) < _N_TICKS:  # a process that is suspended finds one tick when it goes on, however late
            return
        trace = "".join(traceback.format_stack(frame, limit=8))
        raise EnvironmentFailure(f"{what} hangs: not done within {seconds:g} s (env.step_timeout)\n{trace}")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds / _N_TICKS, seconds / _N_TICKS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
