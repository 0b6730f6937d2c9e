"""Attention to a context in a shared buffer and, causally, to the tokens of the pass itself.

The plain way copies the context and the pass's own keys and values into one tensor for every pass, and autograd keeps
the copy. Time and memory then grow with the square of the number of passes. Here the context is read in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from memo_lightning.models.attention import KeysValues, causal_attention
from memo_lightning.models.attention_kernels import Kernel, Part, kernel_for, merge


def attend_to_context(
    queries: Tensor, keys: Tensor, values: Tensor, context: KeysValues, kernel: Kernel | None = None
) -> Tensor:
    """Return the attention of ``queries`` to the context and, causally, to ``keys, values`` of the pass.

    Args:
        queries: ``[B, H, t, d]``.
        keys: ``[B, H, t, d]``.
        values: ``[B, H, t, d]``.
        context: keys and values ``[B, H, k, d]`` that all queries see. They must not change before the backward
            pass has run.
        kernel: computes each of the two parts; None for the fastest available.
    """
    if context[0].shape[2] == 0:
        return causal_attention(queries, keys, values)
    return _TwoPartAttention.apply(queries, keys, values, *context, kernel or kernel_for(queries))


class _TwoPartAttention(torch.autograd.Function):
    """Softmax attention over two parts, merged by their log-sum-exps."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        context_keys: Tensor,
        context_values: Tensor,
        kernel: Kernel,
    ) -> Tensor:
        far = kernel.forward(queries, context_keys, context_values, is_causal=False)
        near = kernel.forward(queries, keys, values, is_causal=True)
        whole = merge(far, near)
        ctx.save_for_backward(queries, keys, values, context_keys, context_values, *whole)
        ctx.kernel = kernel
        return whole.output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, context_keys, context_values, *saved = ctx.saved_tensors
        whole, kernel = Part(*saved), ctx.kernel
        far = kernel.backward(gradients[0], queries, context_keys, context_values, whole, is_causal=False)
        near = kernel.backward(gradients[0], queries, keys, values, whole, is_causal=True)
        return far[0].add_(near[0]), near[1], near[2], far[1], far[2], None
