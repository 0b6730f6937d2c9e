"""Where a piece of work spends its time."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from memo_lightning.benchmarks.gpu.measure import Settings

_N_OPERATORS = 12


def slowest_operators(settings: Settings, work: Callable[[], object]) -> dict[str, float]:
    """Return the slowest operators, with their share of the device's time."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if settings.device == "cuda" else [])]
    name = "self_device_time_total" if settings.device == "cuda" else "self_cpu_time_total"
    with profile(activities=activities) as profiler:
        work()
        if settings.device == "cuda":
            torch.cuda.synchronize()
    times = {event.key[:80]: float(getattr(event, name)) for event in profiler.key_averages()}
    total = sum(times.values()) or 1.0
    slowest = sorted(times, key=lambda key: -times[key])[:_N_OPERATORS]
    return {key: round(times[key] / total, 4) for key in slowest}


def host_synchronisations(settings: Settings, work: Callable[[], object]) -> dict[str, int] | None:
    """Return the source lines at which ``work`` makes the host wait for the device, and how often.

    They come from torch's warnings, which cover all waits except explicit synchronisation. None on the CPU.
    """
    if settings.device != "cuda":
        return None
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            work()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    waits = [warning for warning in caught if "synchroniz" in str(warning.message)]
    return dict(Counter(f"{Path(warning.filename).name}:{warning.lineno}" for warning in waits))
