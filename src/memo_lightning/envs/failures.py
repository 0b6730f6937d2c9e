"""Errors that name the environment that raised them, and time limits for environments in this process."""

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
_N_TICKS = 10  # per timeout
_LONGEST = 1e8  # seconds, which a timer takes on every platform; longer timeouts are none


@contextmanager
def named(what: str, *, also_mistakes: bool = True) -> Iterator[None]:
    """Name the environment in every error that it raises.

    Args:
        what: name of the environment.
        also_mistakes: whether to put ``what`` before the message of a :class:`UserError` too, which may name a setting
            already.

    Raises:
        UserError: if the environment raises one.
        EnvironmentFailure: if it raises anything else, with its stack trace from where ours ends.
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
    """Interrupt an environment after ``seconds``, wherever it is waiting or computing in Python.

    This works in the main thread only. Elsewhere, and for native code that never returns to Python, only a worker
    process can be ended from outside. Time during which the process is suspended (Ctrl-Z) does not count.

    Raises:
        EnvironmentFailure: with the stack trace of where the environment was.
    """
    if threading.current_thread() is not threading.main_thread() or seconds > _LONGEST:
        yield
        return

    ticks = itertools.count(1)

    def interrupt(_: int, frame: FrameType | None) -> None:
        if next(ticks) < _N_TICKS:  # a suspended process gets one tick when it resumes, however late
            return
        trace = "".join(traceback.format_stack(frame, limit=8))
        raise EnvironmentFailure(f"{what} hangs: no answer within {seconds:g} s (env.step_timeout)\n{trace}")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds / _N_TICKS, seconds / _N_TICKS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
