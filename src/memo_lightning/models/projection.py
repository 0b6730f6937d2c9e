"""The linear map from which all blocks are built."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_INIT_STD = 0.02  # as in GPT-2 (Radford et al. 2019); with torch's default the quick task is learned later

MatrixProduct = Callable[[Tensor, Tensor], Tensor]
"""Of ``x [..., K]`` and ``weight [N, K]``: ``x @ weight.T``."""


def projection(in_features: int, out_features: int) -> Projection:
    """Return a linear map without bias, with normally distributed weights of standard deviation 0.02."""
    linear = Projection(in_features, out_features, bias=False)
    nn.init.normal_(linear.weight, std=_INIT_STD)
    return linear


class Projection(nn.Linear):
    """Torch's linear map without bias, computed by oneDNN for float32 on the CPU.

    Torch leaves these matrix products to MKL, which does not use AVX-512 on non-Intel processors; there oneDNN takes
    half the time. It rounds as float32 does.

    Attributes:
        recurring_shapes: whether inputs come in few different shapes; see :func:`expect_any_batch_size`.
    """

    recurring_shapes = True

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map to the last dimension."""
        if torch.compiler.is_compiling():
            return super().forward(x)
        product = _onednn() if self.recurring_shapes else None
        if product is None or x.device.type != "cpu" or not x.dtype == self.weight.dtype == torch.float32 \
                or torch.is_autocast_enabled("cpu"):  # fmt: skip
            return super().forward(x)
        if not torch.is_grad_enabled():
            return product(x, self.weight)
        return _Project.apply(product, x, self.weight)


def expect_any_batch_size(module: nn.Module) -> None:
    """Make the projections of a module use torch's own matrix product.

    OneDNN compiles a program for every number of rows that it meets and keeps the last thousand. If any number may
    occur, this costs more time than it saves, and hundreds of megabytes.
    """
    for part in module.modules():
        if isinstance(part, Projection):
            part.recurring_shapes = False


@cache
def _onednn() -> MatrixProduct | None:
    """Return oneDNN's matrix product; None if torch lacks it or names it differently."""
    operation = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operation is None or not torch.backends.mkldnn.is_available():
        return None
    no_scalars: list[Any] = []

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return operation.default(x, weight, None, "none", no_scalars, "")

    return product


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, product: MatrixProduct, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.product = product
        return product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        product, gradient = ctx.product, gradients[0]
        of_x = product(gradient, weight.t()) if ctx.needs_input_grad[1] else None
        inputs, outputs = x.flatten(0, -2).t(), gradient.flatten(0, -2).t()
        if len(inputs) < len(outputs):  # the first argument is copied to be contiguous: better the smaller one
            return None, of_x, product(inputs, outputs).t()
        return None, of_x, product(outputs, inputs)
