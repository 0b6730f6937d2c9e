"""The gated MLP of all models except the recurrent ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from memo_lightning.models.projection import projection


class FeedForward(nn.Module):
    """Gated MLP with tanh-GELU (Shazeer 2020, arXiv 2002.05202): ``[..., D] -> [..., D]``.

    Args:
        d_model: width D of inputs and outputs.
        d_ff: inner width.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = projection(d_model, 2 * d_ff)  # both projections in one matrix product
        self.down = projection(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to the last dimension."""
        gate_up = self.gate_up(x)
        return self.down(_GatedGelu.apply(gate_up) if torch.is_grad_enabled() else _gated_gelu(gate_up))


def _gated_gelu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh").mul_(up)


class _GatedGelu(torch.autograd.Function):
    """Tanh-GELU of the first half times the second: ``[..., 2 F] -> [..., F]``.

    It saves only its input for the backward pass. Autograd would save the GELU too, a sixth of all that a transformer
    block saves.
    """

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _gated_gelu(gate_up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        gate_gradient, up_gradient = result.chunk(2, dim=-1)
        torch.mul(gradients[0], F.gelu(gate, approximate="tanh"), out=up_gradient)
        gate_gradient.copy_(torch.ops.aten.gelu_backward(gradients[0] * up, gate, approximate="tanh"))
        return result


def compile_feed_forwards(model: nn.Module) -> None:
    """Compile the gated MLPs of ``model``, in place.

    Whole models branch on trial starts and loop over segments, so they would be recompiled again and again.
    """
    for module in model.modules():
        if isinstance(module, FeedForward):
            module.compile(dynamic=True)
