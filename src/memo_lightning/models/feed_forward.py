"""The gated MLP that all models share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """Gated MLP with tanh-GELU (Shazeer 2020, arXiv 2002.05202): ``[..., D] -> [..., D]``.

    Args:
        d_model: width D of inputs and outputs.
        d_ff: inner width.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)  # both projections in one matrix product
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last dimension."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.gelu(gate, approximate="tanh") * up)
