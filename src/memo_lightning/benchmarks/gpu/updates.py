"""The cost of updates: forward and backward passes over whole sequences."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from memo_lightning.benchmarks.gpu.measure import DTYPES, Precision, Settings, SkippedError
from memo_lightning.benchmarks.gpu.memories import Sizes, build
from memo_lightning.benchmarks.gpu.profile import slowest_operators
from memo_lightning.benchmarks.timing import PeakMemory, seconds_of
from memo_lightning.models import SequenceModel
from memo_lightning.models.compiled import compile_parts
from memo_lightning.models.flops import count_flops
from memo_lightning.models.recorded_pass import RecordedPasses

_N_TURNS = 3
_MATRIX_SIZE = 8192  # of the matrix product that measures the card's speed
T = TypeVar("T")

# Dense bfloat16 TFLOP/s from NVIDIA's data sheets, by part of torch's name for the card; the first match counts.
_PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
}


def compare_updates(
    settings: Settings, names: Sequence[str], sizes: Sizes, rows: int, n_steps: int, precision: Precision
) -> dict[str, Any]:
    """Measure updates of memories in turn, with fewer sequences if not all of them fit.

    Returns:
        ``rows`` (sequences) and ``steps`` of an update; for each memory ``seconds`` (median) and ``peak_bytes`` beyond
        weights and inputs; and the time of every other memory relative to the first, as ``NAME / FIRST``.
    """

    def measure(rows: int) -> dict[str, Any]:
        models = {name: build(name, sizes).to(settings.device).train() for name in names}
        peaks = {name: _peak_of_update(settings, model, rows, n_steps, precision) for name, model in models.items()}
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(_N_TURNS):
            x = settings.inputs(rows, n_steps, sizes.d_model, seed=turn)
            for name, model in models.items():
                work = lambda model=model, x=x: update(settings, model, x, precision)  # noqa: E731
                times[name].append(seconds_of(work, settings.torch_device)[0])
        medians = {name: statistics.median(values) for name, values in times.items()}
        first = names[0]
        return {
            "rows": rows,
            "steps": n_steps,
            **{name: {"seconds": medians[name], "peak_bytes": peaks[name]} for name in names},
            **{f"{name} / {first}": medians[name] / medians[first] for name in names[1:]},
        }

    return with_rows_that_fit(measure, rows)


def compare_recorded(
    settings: Settings, sizes: Sizes, rows: int, n_steps: int, precision: Precision, compiled: bool = False
) -> dict[str, Any]:
    """Measure updates of Memo in turn with updates recorded as CUDA graphs and, if ``compiled``, of compiled blocks.

    Returns:
        ``rows`` (sequences) and ``steps`` of an update; median seconds of ``plain`` and ``recorded`` updates, and the
        former relative to the latter; ``seconds_until_recorded``, for the first two updates; and ``same_gradients``,
        whether both have the same gradients, bit for bit.

    Raises:
        SkippedError: on the CPU.
    """
    if settings.device != "cuda":
        raise SkippedError("CUDA graphs need a GPU")

    def measure(rows: int) -> dict[str, Any]:
        plain = build("memo", sizes).to(settings.device).train()
        other = copy.deepcopy(plain)
        if compiled:
            compile_parts(other, settings.torch_device)
        read = RecordedPasses(other)
        inputs = [settings.inputs(rows, n_steps, sizes.d_model, seed=turn) for turn in range(_N_TURNS)]

        def seconds(x: torch.Tensor, recorded: bool) -> float:
            model, own = (other, read) if recorded else (plain, None)
            return seconds_of(lambda: update(settings, model, x, precision, own), settings.torch_device)[0]

        until_recorded = sum(seconds(inputs[0], recorded=True) for _ in range(2))
        if not read.n_recordings:
            raise torch.OutOfMemoryError("no room for a recording")
        seconds(inputs[0], recorded=False)  # warms up
        times: dict[bool, list[float]] = {False: [], True: []}
        for x in inputs:
            for recorded, so_far in times.items():
                so_far.append(seconds(x, recorded))
        gradients = zip(plain.parameters(), other.parameters(), strict=True)
        medians = {recorded: statistics.median(so_far) for recorded, so_far in times.items()}
        return {
            "rows": rows,
            "steps": n_steps,
            "plain": medians[False],
            "recorded": medians[True],
            "plain / recorded": medians[False] / medians[True],
            "seconds_until_recorded": until_recorded,
            "same_gradients": all(_is_same(one.grad, two.grad) for one, two in gradients),
        }

    return with_rows_that_fit(measure, rows)


def _is_same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def update(
    settings: Settings,
    model: SequenceModel,
    x: torch.Tensor,
    precision: Precision,
    read: RecordedPasses | None = None,
) -> None:
    """Run forward and backward passes over sequences ``x [B, T, D]``, in segments of fixed length.

    The forward pass is that of ``read``, if it is given.
    """
    for parameter in model.parameters():
        parameter.grad = None
    with settings.autocast(precision):
        y = (read or model)(x, segment_length=model.segment_length)
    y.float().square().mean().backward()


def _peak_of_update(
    settings: Settings, model: SequenceModel, rows: int, n_steps: int, precision: Precision
) -> int | None:
    """Return the peak bytes that an update allocates; this update also warms up the allocator."""
    x = settings.inputs(rows, n_steps, model.d_model)
    update(settings, model, x[:, : 2 * (model.segment_length or 1)], precision)
    peak = PeakMemory(settings.torch_device)
    update(settings, model, x, precision)
    return peak.read()


def measure_utilisation(
    settings: Settings, sizes: Sizes, rows: int, n_steps: int, compiled: bool = False
) -> dict[str, Any]:
    """Compare the model FLOPs per second of a Memo update in bfloat16 with what the card can do.

    Model FLOPs are three times those of the forward pass; recomputation in the backward pass does not count. If
    ``compiled``, blocks are compiled, as with ``memo train compile=true``.

    Returns:
        ``model_tflops`` per second; ``of_data_sheet`` and ``of_matrix_product``, the fractions of ``data_sheet_tflops``
        and of ``matrix_product_tflops``, measured on a large product; ``seconds_of_update``, ``rows`` (sequences) and
        ``attention_kernels``.
    """
    if compiled and settings.device != "cuda":
        raise SkippedError("compiling is slow and not informative on the CPU")
    model = build("memo", sizes).to(settings.device).train()
    one = settings.inputs(1, n_steps, sizes.d_model)
    with torch.no_grad(), settings.autocast("bfloat16"), count_flops() as count:
        model(one, segment_length=model.segment_length)
    if compiled:
        compile_parts(model, settings.torch_device)

    def measure(rows: int) -> dict[str, Any]:
        x = settings.inputs(rows, n_steps, sizes.d_model)
        update(settings, model, x, "bfloat16")
        times = [
            seconds_of(lambda: update(settings, model, x, "bfloat16"), settings.torch_device)[0]
            for _ in range(_N_TURNS)
        ]
        seconds = statistics.median(times)
        tflops, product = 3 * rows * count.flops / seconds / 1e12, _matrix_product_tflops(settings)
        peak = settings.peak_tflops or _data_sheet_tflops(settings)
        return {
            "rows": rows,
            "seconds_of_update": seconds,
            "model_tflops": tflops,
            "matrix_product_tflops": product,
            "of_matrix_product": tflops / product,
            "data_sheet_tflops": peak,
            "of_data_sheet": None if peak is None else tflops / peak,
            "attention_kernels": count.attention_kernels,
        }

    return with_rows_that_fit(measure, rows)


def profile_update(settings: Settings, sizes: Sizes, rows: int, n_steps: int) -> dict[str, Any]:
    """Return the slowest operators of a Memo update in bfloat16, with their share of the device's time."""
    model = build("memo", sizes).to(settings.device).train()

    def measure(rows: int) -> dict[str, Any]:
        x = settings.inputs(rows, n_steps, sizes.d_model)
        update(settings, model, x, "bfloat16")
        slowest = slowest_operators(settings, lambda: update(settings, model, x, "bfloat16"))
        return {"rows": rows, "slowest_operators": slowest}

    return with_rows_that_fit(measure, rows)


def _matrix_product_tflops(settings: Settings) -> float:
    size = 256 if settings.tiny else _MATRIX_SIZE
    left, right = (settings.inputs(size, size, seed=seed).to(DTYPES["bfloat16"]) for seed in range(2))
    times = [seconds_of(lambda: left @ right, settings.torch_device)[0] for _ in range(10)]
    return 2 * size**3 / min(times) / 1e12


def _data_sheet_tflops(settings: Settings) -> float | None:
    if settings.device != "cuda":
        return None
    card = torch.cuda.get_device_name()
    return next((peak for name, peak in _PEAK_TFLOPS.items() if name in card), None)


def with_rows_that_fit(measure: Callable[[int], T], rows: int) -> T:
    """Call ``measure`` with ``rows`` sequences, halved until memory suffices, and return its result.

    Raises:
        SkippedError: if not even one sequence fits.
    """
    while rows >= 1:
        try:
            return measure(rows)
        except torch.OutOfMemoryError:
            rows //= 2
        torch.cuda.empty_cache()  # not in the handler, where the traceback still holds the tensors
    raise SkippedError("one sequence does not fit in the GPU's memory")
