"""Attention to a context that lies in a shared buffer, and causally to the tokens of the pass itself.

The plain way copies the context and the pass's own keys into one tensor for every pass, and autograd keeps
the copy: time and memory that grow with the square of the number of passes. Here the context is read where it
lies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from memo_lightning.models.attention import KeysValues, causal_attention

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend_to_context(queries: Tensor, keys: Tensor, values: Tensor, context: KeysValues) -> Tensor:
    """Return what ``queries`` read from the context and, causally, from ``keys, values`` of the pass.

    Args:
        queries: ``[B, H, t, d]``.
        keys: ``[B, H, t, d]``.
        values: ``[B, H, t, d]``.
        context: keys and values ``[B, H, k, d]`` that all queries see. They must not change before the backward
            pass has run.
    """
    if context[0].shape[2] == 0:
        return causal_attention(queries, keys, values)
    if queries.device.type == "cpu":
        return _TwoPartAttention.apply(queries, keys, values, *context)
    keys, values = (torch.cat(parts, dim=2) for parts in zip(context, (keys, values), strict=True))
    return causal_attention(queries, keys, values)


class _TwoPartAttention(torch.autograd.Function):
    """Softmax attention over two parts, each by torch's CPU flash kernel, merged by their log-sum-exps.

    The backward kernel needs, of the whole attention, its output and log-sum-exp only; given those, it is
    exact for each part by itself (as in ring attention, Liu et al. 2023, arXiv 2310.01889).
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, context_keys: Tensor, context_values: Tensor
    ) -> Tensor:
        far, far_sum = _flash(queries, context_keys, context_values)
        near, near_sum = _flash(queries, keys, values, is_causal=True)
        log_sum = torch.logaddexp(far_sum, near_sum)
        weight = (near_sum - log_sum).exp_().unsqueeze(-1)
        output = torch.lerp(far, near, weight.to(far.dtype).expand_as(far))
        ctx.save_for_backward(queries, keys, values, context_keys, context_values, output, log_sum)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        queries, keys, values, context_keys, context_values, *whole = ctx.saved_tensors
        far = _flash_backward(gradients[0], queries, context_keys, context_values, *whole, 0.0, False)
        near = _flash_backward(gradients[0], queries, keys, values, *whole, 0.0, True)
        return far[0].add_(near[0]), near[1], near[2], far[1], far[2]
