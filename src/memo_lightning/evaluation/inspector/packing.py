"""Numbers of a trial in few bytes: little-endian arrays as base64, which a page reads without parsing numbers."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memo_lightning.models.attention_recorder import StepAttention

# Entries and totals together: what 2,000 steps may take of a page of 5 MB, before base64.
_ATTENTION_BYTES = 1_900_000
_ENTRY_BYTES, _ROW_BYTES = 3, 4  # of an entry; of one step in one row
SUMMARY = 0x8000  # a token from here on is a summary
MAX_STEPS = SUMMARY  # that a page can show


def pack(values: ArrayLike, dtype: str) -> str:
    """Return numbers as base64 of a flat little-endian array of ``dtype``, e.g. ``"<f4"``."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.dtype(dtype)).tobytes()).decode()


def quantise(shares: NDArray) -> NDArray[np.uint8]:
    """Return shares from 0 to 1 as the roots of them in 1/255: small ones keep their first digit."""
    return np.rint(np.sqrt(np.clip(shares, 0, 1)) * 255).astype(np.uint8)


def share_of(root: ArrayLike) -> NDArray:
    """Return the shares that :func:`quantise` has packed, float64."""
    return (np.asarray(root, np.float64) / 255) ** 2


@dataclass
class AttentionLog:
    """The attention of a trial, step by step, of which a page keeps the entries that matter.

    Entries are dropped from the smallest on, by one threshold for the whole trial, until the rest is small enough.
    What goes to all summaries together, and to the sink, is kept exactly for every step and row.

    Args:
        rows: names of the rows, as in :class:`~memo_lightning.models.attention_recorder.AttentionRecorder`.
        max_bytes: what the packed entries may take, before base64.
    """

    rows: list[tuple[str, int]]
    max_bytes: int = _ATTENTION_BYTES
    _tokens: list[NDArray[np.uint16]] = field(default_factory=list)
    _roots: list[NDArray[np.uint8]] = field(default_factory=list)
    _counts: list[NDArray[np.uint16]] = field(default_factory=list)
    _summaries: list[NDArray[np.uint8]] = field(default_factory=list)
    _sinks: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, attention: StepAttention) -> None:
        """Add the next step."""
        tokens, weights = attention.tokens.numpy(), attention.weights.numpy()
        is_summary = tokens < 0
        roots = quantise(weights)
        rows, columns = roots.nonzero()
        codes = np.where(is_summary, SUMMARY - 1 - tokens, tokens).astype(np.uint16)
        self._tokens.append(codes[columns])
        self._roots.append(roots[rows, columns])
        self._counts.append(np.bincount(rows, minlength=len(weights)).astype(np.uint16))
        self._summaries.append(quantise(weights[:, is_summary].sum(1)))
        self._sinks.append(quantise(attention.sink.numpy()))

    def packed(self) -> dict[str, Any]:
        """Return what the page reads.

        ``counts`` says how many entries each step has in each row, step by step; ``tokens`` and ``roots`` are those
        entries; ``threshold`` is the share below which entries were dropped.
        """
        tokens, roots = np.concatenate(self._tokens), np.concatenate(self._roots)
        counts = np.concatenate(self._counts)
        lowest = self._lowest(roots, len(counts))
        kept = roots >= lowest
        owner = np.repeat(np.arange(len(counts)), counts)
        return {
            "rows": [list(row) for row in self.rows],
            "threshold": float(share_of(lowest - 0.5)),
            "counts": pack(np.bincount(owner[kept], minlength=len(counts)), "<u2"),
            "tokens": pack(tokens[kept], "<u2"),
            "roots": pack(roots[kept], "u1"),
            "summaries": pack(np.concatenate(self._summaries), "u1"),
            "sinks": pack(np.concatenate(self._sinks), "u1") if any(part.any() for part in self._sinks) else None,
        }

    def _lowest(self, roots: NDArray[np.uint8], n_rows: int) -> int:
        """Return the smallest root that is kept."""
        room = max(0, self.max_bytes - n_rows * _ROW_BYTES) // _ENTRY_BYTES
        from_above = np.bincount(roots, minlength=256)[::-1].cumsum()[::-1]  # entries of at least this root
        return next((root for root in range(1, 256) if from_above[root] <= room), 255)
