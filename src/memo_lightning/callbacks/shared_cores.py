"""Keeping training fast while other programs use the same cores."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

import lightning
import psutil
import torch

from memo_lightning.errors import require

_PERIOD = 1.0  # seconds between two checks
_BUSY, _FREE = 0.3, 0.15  # cores used by other programs; between the two, nothing changes


class SharedCores(lightning.Callback):
    """Callback that lets torch's threads sleep instead of spin while other programs use the cores.

    The threads of an operation wait for each other at its end. They spin for some milliseconds, which is fastest on
    idle cores. But spinning does not get a thread a core any sooner when another program wants one, and each of the
    thousands of small operations of a training step may then wait for a whole time slice: training becomes 4 to 30
    times slower.

    Torch's OpenMP library (GNU's, in its wheels for Linux) hardly spins while a process has more threads than there are
    cores. So a second, idle team of threads switches between the two modes. The computed numbers do not depend on it.
    With another OpenMP library, with one thread, or where ``OMP_WAIT_POLICY`` or ``GOMP_SPINCOUNT`` is set, nothing
    changes.

    Args:
        enabled: whether torch's threads sleep while other programs use the cores.

    Raises:
        UserError: if ``enabled`` is neither true nor false.
    """

    def __init__(self, enabled: bool = True) -> None:
        require(isinstance(enabled, bool), "callbacks.shared_cores.enabled", enabled, "true or false")
        chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
        self._enabled = enabled and not chosen
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start watching the load."""
        if self._enabled and torch.get_num_threads() > 1:
            self._stop.clear()
            self._watcher = threading.Thread(target=self._watch, name="shared-cores", daemon=True)
            self._watcher.start()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Stop watching the load."""
        if self._watcher is not None:
            self._stop.set()
            self._watcher.join()
            self._watcher = None

    def _watch(self) -> None:
        load, waiting = OtherPrograms(), SleepingThreads()
        while not self._stop.wait(_PERIOD):
            cores = load.cores()
            if cores > _BUSY:
                waiting.begin()
            elif cores < _FREE:
                waiting.end()
        waiting.end()


class OtherPrograms:
    """Meter of the machine's cores used by programs other than this one and the processes that it has started."""

    def __init__(self) -> None:
        self._last = (time.monotonic(), *seconds_used())

    def cores(self) -> float:
        """Return the average number of cores that they have used since the last call."""
        (before, all_before, own_before), self._last = self._last, (time.monotonic(), *seconds_used())
        now, all_now, own_now = self._last
        own = max(0.0, own_now - own_before)  # a process that has ended since no longer counts
        return max(0.0, all_now - all_before - own) / max(now - before, 1e-3)


def seconds_used() -> tuple[float, float]:
    """Return the core seconds used by all programs, and those used by this one and its processes."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "steal", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # part of user and nice
    own = time.process_time()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            used = child.cpu_times()
            own += used.user + used.system
    return sum(times) - idle - guests, own


class SleepingThreads:
    """Switch that makes GNU's OpenMP count more threads than cores, so that waiting threads sleep."""

    def __init__(self) -> None:
        self._end: threading.Event | None = None
        self._holder: threading.Thread | None = None

    def begin(self) -> None:
        """Start an idle team of threads."""
        if self._holder is not None:
            return
        begun, end = threading.Event(), threading.Event()

        def hold() -> None:
            torch.ones(torch.get_num_threads() * 100_000).sum()  # enough for torch to use a team
            begun.set()
            end.wait()  # the team lasts as long as the thread that made it

        self._holder, self._end = threading.Thread(target=hold, name="sleeping-threads", daemon=True), end
        self._holder.start()
        begun.wait()

    def end(self) -> None:
        """End the team."""
        if self._holder is not None and self._end is not None:
            self._end.set()
            self._holder.join()
            self._holder = self._end = None
