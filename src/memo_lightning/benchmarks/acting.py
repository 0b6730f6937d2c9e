"""The cost of acting after a history of a given length: latency, state bytes and FLOPs."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from tensordict import TensorDict

from memo_lightning.benchmarks.case import Case
from memo_lightning.benchmarks.timing import PeakMemory, seconds_of
from memo_lightning.models import SequenceModel
from memo_lightning.models.acting_flops import flops_per_step

_TIMED_STEPS = 48  # before and after the segment boundary at the end of the history


@torch.no_grad()
def measure_acting(case: Case, model: SequenceModel, turn: int) -> dict[str, Any]:
    """Measure steps around the segment boundary at the end of a history of the case's context length.

    Returns:
        ``step_seconds`` (median), ``worst_step_seconds`` (the slowest step, at the boundary if there is one),
        ``step_cpu_seconds`` (mean), ``state_bytes`` of one environment at the end of the history, and
        ``acting_peak_bytes``, everything that acting allocates for all environments; in the first turn also
        ``flops_per_step`` of one environment.
    """
    model.eval().requires_grad_(False)
    n_envs, length, n_before = case.settings["acting_rows"], case.context_length, _TIMED_STEPS // 2
    n_before = min(n_before, case.segment_length - 1)
    history = case.inputs(1, length)
    with case.autocast():
        _, near_end = model.prefill(history[:, : length - n_before])
        state_bytes = model.state_nbytes(_run(model, history[:, length - n_before :], near_end.clone()))
        peak = PeakMemory(case.device)
        state = near_end.expand(n_envs).clone() if n_envs > 1 else near_end.clone()
        x = case.inputs(n_envs, _TIMED_STEPS, seed=turn + 1)
        times = [seconds_of(lambda t=t: model.step(x[:, t], state), case.device) for t in range(_TIMED_STEPS)]  # type: ignore[misc]
        walls, cpus = zip(*times[2:], strict=True)
        metrics = {
            "step_seconds": statistics.median(walls),
            "worst_step_seconds": max(walls),
            "step_cpu_seconds": sum(cpus) / len(cpus),
            "state_bytes": state_bytes,
            "acting_peak_bytes": peak.read(),
        }
        if turn == 0:
            metrics["flops_per_step"] = flops_per_step(model, length)
    return metrics


@torch.no_grad()
def measure_staggered(case: Case, model: SequenceModel, turn: int) -> dict[str, Any]:
    """Compare environments that reach segment boundaries one by one with environments that reach them together.

    The two sets of environments step in turn, so that other load on the machine slows both.

    Returns:
        ``lockstep_seconds`` and ``staggered_seconds`` per step, means over a segment.
    """
    model.eval().requires_grad_(False)
    n_envs, length = case.settings["acting_rows"], case.context_length
    with case.autocast():
        _, lockstep = model.prefill(case.inputs(1, length))
        lockstep = lockstep.expand(n_envs).clone()
        is_init = torch.zeros(n_envs, length, dtype=torch.bool, device=case.device)
        is_init[torch.arange(n_envs), torch.arange(n_envs) * case.segment_length // n_envs] = True
        _, staggered = model.prefill(case.inputs(n_envs, length), is_init)
        x = case.inputs(n_envs, case.segment_length, seed=turn + 1)
        seconds = [0.0, 0.0]
        for t in range(case.segment_length):
            for index, state in enumerate((lockstep, staggered)):
                seconds[index] += seconds_of(lambda t=t, s=state: model.step(x[:, t], s), case.device)[0]  # type: ignore[misc]
    means = [total / case.segment_length for total in seconds]
    return {"lockstep_seconds": means[0], "staggered_seconds": means[1]}


@torch.no_grad()
def measure_streaming(case: Case, model: SequenceModel, turn: int) -> dict[str, Any]:
    """Run a bounded memory for very many steps, and compare state bytes and latency with those after 10,000 steps.

    Returns:
        ``young_bytes`` and ``old_bytes`` of one environment, ``young_seconds`` and ``old_seconds`` per step (medians
        over whole segments, measured in turn), and the ages ``young_steps`` and ``old_steps``.
    """
    model.eval().requires_grad_(False)
    length, n_young = case.context_length, min(10_000, case.context_length)
    x = case.inputs(1, case.segment_length, seed=turn)
    with case.autocast():
        state = model.init_state(1)
        for t in range(n_young):
            _, state = model.step(x[:, t % case.segment_length], state)
        young = state.clone()
        for t in range(n_young, length):
            _, state = model.step(x[:, t % case.segment_length], state)
        times = [
            [seconds_of(lambda t=t, s=s: model.step(x[:, t], s), case.device)[0] for s in (young, state)]  # type: ignore[misc]
            for _ in range(case.settings["input_sets"])
            for t in range(case.segment_length)
        ]
    medians = [statistics.median(values) for values in zip(*times, strict=True)]
    return {
        "young_steps": n_young,
        "old_steps": length,
        "young_bytes": model.state_nbytes(young),
        "old_bytes": model.state_nbytes(state),
        "young_seconds": medians[0],
        "old_seconds": medians[1],
    }


def _run(model: SequenceModel, x: torch.Tensor, state: TensorDict) -> TensorDict:
    for t in range(x.shape[1]):
        _, state = model.step(x[:, t], state)
    return state
