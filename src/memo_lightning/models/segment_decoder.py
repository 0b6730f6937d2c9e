"""A small decoder that measures how much of a segment its summary has kept."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memo_lightning.models.feed_forward import FeedForward
from memo_lightning.models.projection import projection
from memo_lightning.models.rms_norm import RMSNorm
from memo_lightning.models.rotary import RotaryEmbedding


class SegmentDecoder(nn.Module):
    """A decoder that predicts a segment's encoded steps from its summary.

    Every step attends to the summary tokens with a query projected from the step's sinusoidal position alone; a
    gated MLP turns the result into the prediction.

    Args:
        d_model: width D; even.
        d_ff: inner width of the gated MLP.
        norm_eps: epsilon of the RMSNorm.
    """

    def __init__(self, d_model: int, d_ff: int, norm_eps: float = 1e-6) -> None:
        super().__init__()
        self.waves = RotaryEmbedding(d_model)
        self.query = projection(d_model, d_model)
        self.norm = RMSNorm(d_model, eps=norm_eps)
        self.feed_forward = FeedForward(d_model, d_ff)

    def forward(self, summary: Tensor, length: int) -> Tensor:
        """Return the prediction ``[b, length, D]`` of a segment from its ``summary [b, S, D]``."""
        waves = self.waves(torch.arange(length, device=summary.device), summary.dtype)
        queries = self.query(torch.cat(waves, dim=-1)).expand(summary.shape[0], -1, -1)  # (b, length, D)
        summary = summary.to(queries.dtype)
        answers = queries + F.scaled_dot_product_attention(queries, summary, summary)
        return answers + self.feed_forward(self.norm(answers))
