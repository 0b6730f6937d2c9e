"""What a training update costs: forward and backward over whole rows."""

from __future__ import annotations

import statistics
import time
from typing import Any

from torch import Tensor

from memo_lightning.evaluation.efficiency.case import Case
from memo_lightning.evaluation.efficiency.flops import count_flops
from memo_lightning.evaluation.efficiency.timing import PeakMemory, seconds_of
from memo_lightning.models import SequenceModel


def measure_update(case: Case, model: SequenceModel) -> dict[str, Any]:
    """Measure forward and backward of rows as long as the context, in segments of the fixed length.

    Returns:
        ``tokens_per_second`` and ``update_seconds`` (median over input sets), ``update_cpu_seconds`` (user and system,
        all threads), ``update_flops``, ``update_peak_bytes`` beyond weights and inputs, ``attention_kernels``, and
        all times.
    """
    model.train()
    settings, rows, length = case.settings, case.settings["update_rows"], case.context_length

    def update(x: Tensor) -> None:
        for parameter in model.parameters():
            parameter.grad = None
        with case.autocast():
            y = model(x, segment_length=case.segment_length)
            auxiliary = model.auxiliary_loss()
        loss = y.float().square().mean()
        (loss if auxiliary is None else loss + auxiliary).backward()

    update(case.inputs(rows, 2 * case.segment_length))  # the warm-up
    x = case.inputs(rows, length)
    with count_flops() as count:
        update(x)
    # Apart from the count, which keeps what checkpointing would drop, and from the clock, as all free memory is given
    # back to the system first and must be had anew.
    peak = PeakMemory(case.device)
    update(x)
    peak_bytes = peak.read()

    times: list[tuple[float, float]] = []
    start = time.perf_counter()
    while len(times) < settings["input_sets"]:
        x = case.inputs(rows, length, seed=len(times) + 1)
        times.append(seconds_of(lambda x=x: update(x), case.device))  # type: ignore[misc]
        if time.perf_counter() - start > settings["max_seconds"]:
            break
    wall, cpu = (statistics.median(values) for values in zip(*times, strict=True))
    return {
        "tokens_per_second": rows * length / wall,
        "update_seconds": wall,
        "update_cpu_seconds": cpu,
        "update_flops": count.flops,
        "update_flops_per_second": count.flops / wall,
        "update_peak_bytes": peak_bytes,
        "attention_kernels": count.attention_kernels,
        "update_times": [list(pair) for pair in times],
    }
