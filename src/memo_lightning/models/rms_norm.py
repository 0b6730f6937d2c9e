"""RMSNorm that saves less for the backward pass on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.RMSNorm):
    """Torch's RMSNorm, with two fewer saved tensors on the CPU, where torch has no kernel with a gradient.

    Args:
        d_model: width D of the inputs.
        eps: added to the mean square.
    """

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__(d_model, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        if x.device.type == "cpu" and x.dtype == self.weight.dtype and torch.is_grad_enabled():
            return _RMSNorm.apply(x, self.weight, self.eps)
        return super().forward(x)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = (torch.linalg.vecdot(x, x) / x.shape[-1] + eps).rsqrt_().unsqueeze(-1)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        weight_gradient = (gradients[0] * normed).flatten(0, -2).sum(0)
        gradient = gradients[0] * weight
        along = torch.linalg.vecdot(gradient, normed).div_(x.shape[-1]).unsqueeze(-1)
        return gradient.sub_(normed.mul_(along)).mul_(scale), weight_gradient, None
