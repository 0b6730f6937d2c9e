"""Compact storage for the numbers of a trial: little-endian arrays, deflated, as base64."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memo_lightning.models.attention_recorder import StepAttention

_ATTENTION_BYTES = 1_500_000  # for attention in a page, deflated and before base64
_MAX_ENTRIES = 4_000_000  # for a browser to unpack
SUMMARY = 0x8000  # tokens from here on are summaries
MAX_STEPS = SUMMARY  # that a page can show


def pack(values: ArrayLike, dtype: str) -> str:
    """Return numbers as the base64 of a flat, deflated little-endian array of ``dtype``, e.g. ``"<f4"``."""
    return base64.b64encode(_deflated(values, dtype)).decode()


def _deflated(values: ArrayLike, dtype: str) -> bytes:
    return zlib.compress(np.ascontiguousarray(values, dtype=np.dtype(dtype)).tobytes())


def quantise(shares: NDArray) -> NDArray[np.uint8]:
    """Return the square roots of shares from 0 to 1, in units of 1/255: small shares keep their first digit."""
    return np.rint(np.sqrt(np.clip(shares, 0, 1)) * 255).astype(np.uint8)


def share_of(root: ArrayLike) -> NDArray:
    """Return the shares, float64, whose roots :func:`quantise` has returned."""
    return (np.asarray(root, np.float64) / 255) ** 2


@dataclass
class AttentionLog:
    """The attention of a trial, step by step, of which a page keeps the entries that matter.

    Entries are dropped until the rest is small enough, beginning with those that are smallest relative to the largest
    of their step and row: late in a trial, where much can be read, even important shares are small. The total that
    goes to all summaries, and what goes to the sink, are kept for every step and row.

    Args:
        rows: names of the rows, as in :class:`~memo_lightning.models.attention_recorder.AttentionRecorder`.
        max_bytes: size limit of the entries, deflated and before base64.
    """

    rows: list[tuple[str, int]]
    max_bytes: int = _ATTENTION_BYTES
    _tokens: list[NDArray[np.uint16]] = field(default_factory=list)
    _roots: list[NDArray[np.uint8]] = field(default_factory=list)
    _scores: list[NDArray[np.uint16]] = field(default_factory=list)  # decide which entries are kept
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
        largest = np.maximum(roots.max(1, initial=0), 1)[:, None]
        self._scores.append(
            (roots * 255.0 / largest).round().astype(np.uint16)[rows, columns] * 256 + roots[rows, columns]
        )
        self._counts.append(np.bincount(rows, minlength=len(weights)).astype(np.uint16))
        self._summaries.append(quantise(weights[:, is_summary].sum(1)))
        self._sinks.append(quantise(attention.sink.numpy()))

    def packed(self) -> dict[str, Any]:
        """Return what the page reads.

        ``counts`` is the number of entries of each step in each row, step by step. ``tokens`` and ``roots`` are those
        entries. ``threshold`` is the fraction of the largest share of a step and row below which entries were dropped,
        0 if none were.
        """
        tokens, roots = np.concatenate(self._tokens), np.concatenate(self._roots)
        counts = np.concatenate(self._counts)
        owner = np.repeat(np.arange(len(counts)), counts)
        lowest, kept = self._kept(tokens, roots)
        return {
            "rows": [list(row) for row in self.rows],
            "threshold": float(share_of(lowest // 256)),
            "counts": pack(np.bincount(owner[kept], minlength=len(counts)), "<u2"),
            "tokens": pack(tokens[kept], "<u2"),
            "roots": pack(roots[kept], "u1"),
            "summaries": pack(np.concatenate(self._summaries), "u1"),
            "sinks": pack(np.concatenate(self._sinks), "u1") if any(part.any() for part in self._sinks) else None,
        }

    def _kept(self, tokens: NDArray[np.uint16], roots: NDArray[np.uint8]) -> tuple[int, NDArray[np.bool_]]:
        """Return the smallest score that is kept, 0 for all, and bool ``[entries]``, true for those kept."""
        scores = np.concatenate(self._scores)
        from_above = np.bincount(scores, minlength=1 << 16)[::-1].cumsum()[::-1]  # entries of at least this score

        def lowest_for(n_entries: int) -> int:
            return int((from_above > n_entries).sum())

        lowest = lowest_for(_MAX_ENTRIES)
        while True:
            kept = scores >= lowest
            size = len(_deflated(tokens[kept], "<u2")) + len(_deflated(roots[kept], "u1"))
            if size <= self.max_bytes or not kept.any():
                return lowest, kept
            # As many entries as would fit if all took the same room, less a margin, so that the loop ends.
            lowest = lowest_for(int(0.98 * kept.sum() * self.max_bytes / size))
