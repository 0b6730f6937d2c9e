"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split layout of LLaMA."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Position-dependent rotations of queries and keys.

    Angles are computed in float64, so that positions in the millions lose no precision (in streaming, positions are
    never re-based).

    Args:
        head_dim: width ``d`` of one head; even.
        base: the base of the geometric series of frequencies.

    Raises:
        ValueError: if ``head_dim`` is odd.
    """

    inverse_frequencies: Tensor

    def __init__(self, head_dim: int, base: float = 10000.0) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"head_dim={head_dim}: must be even, for rotary positions")
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        self.register_buffer("inverse_frequencies", base**-exponents, persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the cosines and sines ``[..., d / 2]`` of ``positions [...]``, in ``dtype``."""
        angles = positions.to(torch.float64).unsqueeze(-1) * self.inverse_frequencies.to(torch.float64)
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def move(self, keys: Tensor, shifts: Tensor) -> Tensor:
        """Return rotated ``keys [..., n, d]`` as they are ``shifts [..., n]`` positions later; negative for earlier.

        Dimensions of ``shifts`` that are 1 or missing stand for all keys.
        """
        cos, sin = self(shifts, torch.promote_types(keys.dtype, torch.float32))
        return rotate(keys, cos, sin)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x [..., d]``, keeping its dtype, by angles with broadcastable ``cos`` and ``sin [..., d / 2]``."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def positions_from(first: Tensor, length: int, device: torch.device) -> Tensor:
    """Return the positions of ``length`` tokens per row: ``[b, 1, length]``, or ``[length]`` if all rows agree.

    Args:
        first: int64 ``[b]`` on the CPU, the position of each row's first token.
        length: number of tokens per row.
        device: device of the positions.
    """
    steps = torch.arange(length, device=device)
    if bool((first == first[0]).all()):
        return steps + int(first[0])
    return first.to(device, non_blocking=True)[:, None, None] + steps
