"""Counter-based random numbers: one independent stream per environment, on any device.

A number is a hash of (seed, stream, counter), so what one environment draws depends neither on the number of
environments nor on the order in which they draw. The hash is SplitMix64 (Steele, Lea and Flood 2014,
doi 10.1145/2660193.2660195), in int64 arithmetic that wraps around.
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MULTIPLIER_2 = 0x94D049BB133111EB - (1 << 64)


def mix(x: Tensor) -> Tensor:
    """Return the SplitMix64 finaliser of int64 ``x``, bit for bit, as int64."""
    x = (x ^ _shift_right(x, 30)) * _MULTIPLIER_1
    x = (x ^ _shift_right(x, 27)) * _MULTIPLIER_2
    return x ^ _shift_right(x, 31)


def combine(key: Tensor, counter: Tensor) -> Tensor:
    """Return the ``counter``-th output (from 0) of the SplitMix64 generator whose state is ``key``."""
    return mix(key + (counter + 1) * GOLDEN_GAMMA)


def draw_below(key: Tensor, counter: Tensor, limit: int) -> Tensor:
    """Return integers in ``[0, limit)``: number ``counter`` of stream ``key``, both int64 of the same shape."""
    return _shift_right(combine(key, counter), 1) % limit


def stream_keys(seed: int, n_streams: int, device: torch.device) -> Tensor:
    """Return the keys ``[n_streams]`` of the streams that belong to ``seed``."""
    root = mix(torch.tensor(seed, dtype=torch.int64, device=device))
    return combine(root, torch.arange(n_streams, dtype=torch.int64, device=device))


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift int64 right as if it were unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
