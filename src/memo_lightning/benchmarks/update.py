"""The cost of a training update: forward and backward pass over whole sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from memo_lightning.benchmarks.case import Case
from memo_lightning.benchmarks.timing import PeakMemory, seconds_of
from memo_lightning.models import SequenceModel
from memo_lightning.models.flops import count_flops


def measure_update(case: Case, model: SequenceModel, turn: int) -> dict[str, Any]:
    """Measure forward and backward passes over sequences of the context length, in segments of fixed length.

    Returns:
        ``update_seconds``, ``update_cpu_seconds`` (user and system, all threads) and ``update_peak_bytes`` beyond
        weights and inputs; in the first turn also ``update_flops`` and ``attention_kernels``.
    """
    model.train()
    n_sequences, length = case.settings["update_rows"], case.context_length

    def update(x: Tensor) -> None:
        for parameter in model.parameters():
            parameter.grad = None
        with case.autocast():
            y = model(x, segment_length=case.segment_length)
            auxiliary = model.auxiliary_loss()
        loss = y.float().square().mean()
        (loss if auxiliary is None else loss + auxiliary).backward()

    update(case.inputs(n_sequences, 2 * case.segment_length))
    peak = PeakMemory(case.device)
    update(case.inputs(n_sequences, length))  # not timed: memory has to be obtained from the system first
    peak_bytes = peak.read()
    x = case.inputs(n_sequences, length, seed=turn + 1)
    wall, cpu = seconds_of(lambda: update(x), case.device)
    metrics: dict[str, Any] = {"update_seconds": wall, "update_cpu_seconds": cpu, "update_peak_bytes": peak_bytes}
    if turn == 0:
        with count_flops() as count:  # last, as it keeps alive what checkpointing would free
            update(x)
        metrics |= {"update_flops": count.flops, "attention_kernels": count.attention_kernels}
    return metrics


def update_rates(case: Case, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``tokens_per_second`` and ``update_flops_per_second`` of an update, given its ``metrics``."""
    seconds = metrics["update_seconds"]
    tokens = case.settings["update_rows"] * case.context_length
    return {"tokens_per_second": tokens / seconds, "update_flops_per_second": metrics["update_flops"] / seconds}
