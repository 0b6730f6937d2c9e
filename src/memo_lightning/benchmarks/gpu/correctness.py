"""Checks that memories and attention compute the same on the device as on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from memo_lightning.benchmarks.gpu.measure import DTYPES, Precision, Settings
from memo_lightning.benchmarks.gpu.memories import TINY, Sizes, build
from memo_lightning.models import SequenceModel
from memo_lightning.models.attention_kernels import Kernel, MathKernel, kernel_for
from memo_lightning.models.context_attention import attend_to_context

# For the norm of the difference, relative to the norm of the reference.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
_WEIGHT_SCALE = 4  # fresh weights are so small that the memory would hardly affect the outputs


def compare_memory(settings: Settings, name: str, precision: Precision) -> dict[str, Any]:
    """Compare a memory on the device with the same one in float32 on the CPU.

    Sequences span two and a half segments: first one trial each, then trials that begin at different steps.

    Returns:
        ``differences`` of outputs (``forward``, ``prefill``, ``step``) and of the gradients of inputs and weights
        (``backward``), each the norm of the difference relative to the norm of the reference; their ``tolerance``;
        and whether the check ``passed``.
    """
    sizes = TINY if settings.tiny else Sizes(64, 2, 2, 128, segment_length=16, summary_length=4)
    expected = build(name, sizes).eval()
    with torch.no_grad():
        for parameter in expected.parameters():
            if parameter.ndim > 1:
                parameter.mul_(_WEIGHT_SCALE)
    model = copy.deepcopy(expected).to(settings.device)
    length = 5 * sizes.segment_length // 2
    x = torch.randn(4, length, sizes.d_model, generator=torch.Generator().manual_seed(0))
    staggered = torch.zeros(4, length, dtype=torch.bool)
    staggered[1, 5] = staggered[2, sizes.segment_length] = staggered[3, 2] = staggered[3, length - 3] = True
    differences: dict[str, float] = {}
    with _exact_float32():
        for kind, is_init in (("one_trial", None), ("staggered", staggered)):
            of_kind = _differences(settings, model, expected, x, is_init, precision)
            differences |= {f"{what}/{kind}": value for what, value in of_kind.items()}
    return _verdict(differences, precision)


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Keep cuDNN, which runs LSTM and GRU, from rounding float32 to TF32, as it does by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _differences(
    settings: Settings,
    model: SequenceModel,
    expected: SequenceModel,
    x: Tensor,
    is_init: Tensor | None,
    precision: Precision,
) -> dict[str, float]:
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    y, *gradients = _forward_and_backward(expected, x, is_init, weight)
    there, starts = x.to(settings.device), None if is_init is None else is_init.to(settings.device)
    with settings.autocast(precision):
        found, *found_gradients = _forward_and_backward(model, there, starts, weight.to(settings.device))
        prefilled, _ = model.prefill(there, starts)
        state, steps = model.init_state(len(x)), []
        for t in range(x.shape[1]):
            y_t, state = model.step(there[:, t], state, None if starts is None else starts[:, t])
            steps.append(y_t)
    return {
        "forward": _relative([found], [y]),
        "backward": _relative(found_gradients, gradients),
        "prefill": _relative([prefilled], [y]),
        "step": _relative([torch.stack(steps, dim=1)], [y]),
    }


def _forward_and_backward(model: SequenceModel, x: Tensor, is_init: Tensor | None, weight: Tensor) -> list[Tensor]:
    """Return the outputs, and the gradients of inputs and weights."""
    x = x.clone().requires_grad_()
    y = model(x, is_init)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(
        (y.float() * weight).sum(), [x, *weights], materialize_grads=True, allow_unused=True
    )
    return [y.detach(), *gradients]


def compare_attention(
    settings: Settings, precision: Precision, length: int, context: int, width: int
) -> dict[str, Any]:
    """Compare attention to a context and the pass's own tokens with float64 on the CPU: outputs and gradients.

    Returns:
        The same as :func:`compare_memory`, and the ``kernel`` that was chosen.
    """
    tensors = [
        settings.inputs(2, 3, n, width, seed=seed).to(DTYPES[precision]).requires_grad_()
        for seed, n in enumerate((length, length, length, context, context))
    ]
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in tensors]
    y, expected = _attend(tensors), _attend(exact, MathKernel())
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(9))
    gradients = torch.autograd.grad((y * weight.to(y)).sum(), tensors)
    exact_gradients = torch.autograd.grad((expected * weight.double()).sum(), exact)
    names = ("queries", "keys", "values", "context_keys", "context_values")
    pairs = zip(names, gradients, exact_gradients, strict=True)
    differences = {"forward": _relative([y], [expected])}
    differences |= {f"backward/{name}": _relative([ours], [theirs]) for name, ours, theirs in pairs}
    return {"kernel": type(kernel_for(tensors[0])).__name__, **_verdict(differences, precision)}


def _attend(tensors: list[Tensor], kernel: Kernel | None = None) -> Tensor:
    queries, keys, values, context_keys, context_values = tensors
    return attend_to_context(queries, keys, values, (context_keys, context_values), kernel)


def _verdict(differences: dict[str, float], precision: Precision) -> dict[str, Any]:
    tolerance = _TOLERANCE[precision]
    passed = all(difference < tolerance for difference in differences.values())  # false for NaN as well
    return {"passed": passed, "tolerance": tolerance, "differences": differences}


def _relative(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the norm of the difference over all tensors together, relative to the norm of the ``expected`` ones."""
    pairs = [(a.detach().cpu().double(), b.detach().cpu().double()) for a, b in zip(found, expected, strict=True)]
    difference = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    return difference / max(1e-12, sum(float(b.square().sum()) for _, b in pairs) ** 0.5)
