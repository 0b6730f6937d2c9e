"""Measuring the time and memory of a piece of work."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch


def seconds_of(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Do the work and return its wall time and CPU time (user and system, all threads), in seconds."""
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """Peak memory of the process, beyond what it holds when this object is created.

    On CUDA it is read from the allocator, otherwise from the resident set, whose high-water mark Linux lets a process
    reset. Fresh processes give the cleanest numbers.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before: int | None = torch.cuda.memory_allocated(device)
            return
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark to the current resident set
            self._before = _status_bytes("VmRSS")
        except (AttributeError, OSError):  # no glibc, or no Linux that allows it
            self._before = None

    def read(self) -> int | None:
        """Return the peak since creation, in bytes; None if the system cannot tell."""
        if self._before is None:
            return None
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return _status_bytes("VmHWM") - self._before


def _status_bytes(name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return 1024 * int(match.group(1))
