"""Causal attention within trials of different lengths, packed one after another so that no masks are needed.

It uses torch's variable-length attention, which also takes a window and exists for bfloat16 and float16 on CUDA.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from memo_lightning.models.attention_kernels import flash_serves

_ARGUMENTS = ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k")


@cache
def variable_length_attention() -> Callable[..., Any] | None:
    """Return torch's variable-length attention; None if it is missing or has another signature."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    names = tuple(inspect.signature(varlen_attn).parameters)
    return varlen_attn if names[: len(_ARGUMENTS)] == _ARGUMENTS and "window_size" in names else None


class PackedTrials:
    """The trials of ``[B, T]`` sequences, packed one after another.

    Args:
        first_seen: int64 ``[B, T]``, the first step of its sequence that each step sees.
        window: number of newest steps that are seen, the current one included; None for the whole trial.
    """

    def __init__(self, first_seen: Tensor, window: int | None) -> None:
        n_steps = first_seen.shape[1]
        # A step that sees none before it begins a trial. With a window of one, every step is a trial of its own.
        starts = (first_seen == torch.arange(n_steps, device=first_seen.device)).flatten().nonzero().squeeze(1)
        self._ends = torch.cat([starts, starts.new_tensor([first_seen.numel()])]).to(torch.int32)
        self._longest = int(self._ends.diff().max())
        self._window = (-1 if window is None else window - 1, 0)

    @staticmethod
    def serve(queries: Tensor) -> bool:
        """Return whether there is a kernel for ``queries [B, H, T, d]``."""
        return flash_serves(queries) and variable_length_attention() is not None

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the attention of the queries to the keys and values of their trials; all are ``[B, H, T, d]``."""
        attention = variable_length_attention()
        assert attention is not None
        packed = [part.transpose(1, 2).flatten(0, 1) for part in (queries, keys, values)]  # (B T, H, d)
        lengths = (self._ends, self._ends, self._longest, self._longest)
        y = attention(*packed, *lengths, window_size=self._window)
        return y.unflatten(0, (queries.shape[0], queries.shape[2])).transpose(1, 2)
