"""FLOP counting that leaves out the part of attention that a causal mask hides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._ops import OpOverloadPacket
from torch.utils.flop_counter import FlopCounterMode

_ATTENTION = [
    f"_scaled_dot_product_{kind}"
    for kind in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
]
# Matrix products per attention. The backward kernel recomputes the scores.
_ATTENTION_PRODUCTS = dict.fromkeys(_ATTENTION, 2) | {f"{name}_backward": 5 for name in _ATTENTION}
# Matrix products per weight matrix and time step
_RECURRENT_PRODUCTS = {
    "mkldnn_rnn_layer": 1,
    "mkldnn_rnn_layer_backward": 2,
    "_cudnn_rnn": 1,
    "_cudnn_rnn_backward": 2,
}


@dataclass
class FlopCount:
    """The FLOPs and attention kernels of a block of code.

    Attributes:
        flops: floating-point operations of matrix products and attention; a multiply-add counts as two.
        attention_kernels: torch's names of the attention kernels that ran.
    """

    flops: int = 0
    attention_kernels: list[str] = field(default_factory=list)


@contextmanager
def count_flops() -> Iterator[FlopCount]:
    """Count the FLOPs of the ``with`` block; the yielded count is filled in at its end.

    Torch's :class:`FlopCounterMode` does not know CPU attention kernels, fused LSTMs and GRUs, or oneDNN's matrix
    products. For the attention kernels that it does know, it counts all pairs of tokens.
    """
    count = FlopCount()
    formulas = {op: _attention_formula(op, n) for op, n in _present(_ATTENTION_PRODUCTS).items()}
    formulas |= {op: _recurrent_formula(op, n) for op, n in _present(_RECURRENT_PRODUCTS).items()}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        formulas[torch.ops.mkldnn._linear_pointwise] = _by_name(torch.ops.mkldnn._linear_pointwise, _linear_flops)
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        yield count
    count.flops = counter.get_total_flops()
    operations = {str(operation).removeprefix("aten.") for operation in counter.get_flop_counts()["Global"]}
    count.attention_kernels = sorted(name for name in operations if "attention" in name and "backward" not in name)


def _present(numbers: Mapping[str, int]) -> dict[OpOverloadPacket, int]:
    """Return the ``numbers`` of the operators that the installed torch has; they are private to torch."""
    operators = {name: getattr(torch.ops.aten, name, None) for name in numbers}
    return {operator: numbers[name] for name, operator in operators.items() if operator is not None}


def _attention_formula(operation: OpOverloadPacket, n_matmuls: int) -> Callable[..., int]:
    """Return the function that computes an attention kernel's FLOPs from its arguments."""

    def formula(given: Mapping[str, Any]) -> int:
        batch, heads, length, width = given["query"].shape
        context = given["key"].shape[2]
        n_pairs = length * context
        if given.get("is_causal", False):  # torch lets query i see keys 0..i
            n_seen = min(length, context)
            n_pairs = n_seen * (n_seen + 1) // 2 + (length - n_seen) * context
        return 2 * n_matmuls * batch * heads * n_pairs * width

    return _by_name(operation, formula)


def _recurrent_formula(operation: OpOverloadPacket, n_matmuls: int) -> Callable[..., int]:
    """Return the function that computes the FLOPs of fused recurrent layers from their arguments."""

    def formula(given: Mapping[str, Any]) -> int:
        weights = [value for name, value in given.items() if name.startswith("weight")]
        flat = [part for value in weights for part in (value if isinstance(value, (list, tuple)) else [value])]
        matrices = [part for part in flat if isinstance(part, torch.Tensor) and part.ndim == 2]
        n_tokens = given["input"].numel() // given["input"].shape[-1]
        return 2 * n_matmuls * n_tokens * sum(matrix.numel() for matrix in matrices)

    return _by_name(operation, formula)


def _linear_flops(given: Mapping[str, Any]) -> int:
    """Return the FLOPs of oneDNN's matrix product of ``X [.., K]`` and ``W [N, K]``."""
    return 2 * given["X"].numel() * given["W"].shape[0]


def _by_name(operation: OpOverloadPacket, formula: Callable[[Mapping[str, Any]], int]) -> Callable[..., int]:
    """Wrap ``formula`` so that torch can call it with the positional arguments of ``operation``."""
    names = [argument.name for argument in operation.default._schema.arguments]

    def positional(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        return formula({**dict(zip(names, args, strict=False)), **kwargs})

    positional._get_raw = True  # type: ignore[attr-defined]  # torch then passes tensors instead of shapes
    return positional
