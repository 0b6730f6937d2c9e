"""Counting FLOPs, with attention counted as it is computed: without what a causal mask hides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._ops import OpOverloadPacket
from torch.utils.flop_counter import FlopCounterMode

_KINDS = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
_FORWARD = [getattr(torch.ops.aten, f"_scaled_dot_product_{kind}") for kind in _KINDS]
_BACKWARD = [getattr(torch.ops.aten, f"_scaled_dot_product_{kind}_backward") for kind in _KINDS]


@dataclass
class FlopCount:
    """What a block of code computed.

    Attributes:
        flops: floating-point operations of matrix products and attention, a multiply-add being two.
        attention_kernels: the attention kernels that ran, by torch's names.
    """

    flops: int = 0
    attention_kernels: list[str] = field(default_factory=list)


@contextmanager
def count_flops() -> Iterator[FlopCount]:
    """Count the FLOPs of the block; the yielded count is filled in at its end.

    Torch's :class:`FlopCounterMode` knows no CPU attention kernel, and counts all pairs of tokens for the others.
    """
    count = FlopCount()
    matmuls = {op: 2 for op in _FORWARD} | {op: 5 for op in _BACKWARD}  # the backward kernel computes scores again
    formulas = {op: _attention_formula(op, n) for op, n in matmuls.items()}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        yield count
    count.flops = counter.get_total_flops()
    operations = {str(operation).removeprefix("aten.") for operation in counter.get_flop_counts()["Global"]}
    count.attention_kernels = sorted(name for name in operations if "attention" in name and "backward" not in name)


def _attention_formula(operation: OpOverloadPacket, n_matmuls: int) -> Callable[..., int]:
    """Return the FLOPs of an attention kernel as a function of its arguments."""
    names = [argument.name for argument in operation.default._schema.arguments]

    def formula(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        batch, heads, length, width = given["query"].shape
        context = given["key"].shape[2]
        n_pairs = length * context
        if given.get("is_causal", False):  # torch lets query i see keys 0..i
            n_seen = min(length, context)
            n_pairs = n_seen * (n_seen + 1) // 2 + (length - n_seen) * context
        return 2 * n_matmuls * batch * heads * n_pairs * width

    formula._get_raw = True  # type: ignore[attr-defined]  # torch then passes tensors instead of shapes
    return formula
