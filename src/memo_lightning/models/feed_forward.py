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

    Attributes:
        saves_input_only: whether the backward pass recomputes what it can; if not, torch.compile can trace the MLP and
            decides what is saved.
    """

    saves_input_only = True

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = projection(d_model, 2 * d_ff)  # both projections in one matrix product
        self.down = projection(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to the last dimension."""
        gate_up = self.gate_up(x)
        by_hand = self.saves_input_only and torch.is_grad_enabled()
        return self.down(_GatedGelu.apply(gate_up) if by_hand else _gated_gelu(gate_up))


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
