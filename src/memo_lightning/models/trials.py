"""Sequences cut into trials, the parts of a ``[B, T]`` batch that share a memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """The same range of steps in all trials that reach that far, longest trial first.

    Attributes:
        n_trials: number of trials in the chunk, the first ones of the previous chunk.
        length: number of steps in the chunk.
        is_last: whether no trial continues after this chunk.
        indices: flat indices ``[n_trials, length]`` into ``[B * T]``, or None if the chunk is the plain slice
            ``[:, start : start + length]``. Steps past the end of a trial repeat its last one.
        start: first step of the chunk within its trials.
    """

    n_trials: int
    start: int
    length: int
    is_last: bool
    indices: Tensor | None


class Trials:
    """The trials of a batch of sequences, read in chunks of equal length.

    A trial starts at the first step of its sequence and wherever ``is_init`` is set. All trials are stacked along the
    batch and processed together, chunk by chunk; those that have ended drop out. Sequences that are reset at different
    steps therefore cost no more tokens than one last, partial chunk per trial.

    Args:
        shape: ``(B, T)``.
        is_init: bool ``[B, T]`` or None.
    """

    def __init__(self, shape: tuple[int, int], is_init: Tensor | None) -> None:
        self.shape = shape
        self._starts: Tensor | None = None
        if is_init is not None and bool(is_init[:, 1:].any()):
            first = is_init.clone()
            first[:, 0] = True
            starts = first.flatten().nonzero().squeeze(1)
            ends = torch.cat([starts[1:], starts.new_tensor([first.numel()])])
            lengths, order = (ends - starts).sort(descending=True, stable=True)
            self._starts, self._lengths = starts[order], lengths

    @property
    def is_plain(self) -> bool:
        """Whether every sequence is a single trial."""
        return self._starts is None

    @property
    def n_trials(self) -> int:
        """The number of trials."""
        return self.shape[0] if self._starts is None else len(self._starts)

    def last(self) -> Tensor:
        """Return the index of every sequence's last trial, counted longest first, as int64 ``[B]`` on the CPU."""
        n_sequences, n_steps = self.shape
        if self._starts is None:
            return torch.arange(n_sequences)
        starts, by_start = self._starts.cpu().sort()
        ends = n_steps * torch.arange(1, n_sequences + 1)
        return by_start[torch.searchsorted(starts, ends) - 1]

    def n_chunks(self, length: int) -> int:
        """Return how many chunks of ``length`` steps the longest trial has, a shorter last one included."""
        longest = self.shape[1] if self._starts is None else int(self._lengths[0])
        return -(-longest // length)

    def chunks(self, length: int) -> Iterator[Chunk]:
        """Yield chunks of ``length`` steps (the last may be shorter) until every trial has ended."""
        if self._starts is None:
            n_sequences, n_steps = self.shape
            for start in range(0, n_steps, length):
                end = min(start + length, n_steps)
                yield Chunk(n_sequences, start, end - start, end == n_steps, None)
            return
        longest = int(self._lengths[0])
        for start in range(0, longest, length):
            end = min(start + length, longest)
            n_trials = int((self._lengths > start).sum())
            steps = torch.arange(start, end, device=self._starts.device)
            steps = torch.minimum(steps, self._lengths[:n_trials, None] - 1)
            yield Chunk(n_trials, start, end - start, end == longest, self._starts[:n_trials, None] + steps)

    def lengths_in(self, chunk: Chunk) -> Tensor:
        """Return how many steps of ``chunk`` each of its trials has, as int64 ``[n_trials]`` on the CPU."""
        if self._starts is None:
            return torch.full((chunk.n_trials,), chunk.length)
        return (self._lengths[: chunk.n_trials].cpu() - chunk.start).clamp(max=chunk.length)

    def packing(self) -> tuple[Tensor, Tensor]:
        """Return all steps in the order of a ``PackedSequence``, for sequences that are not :attr:`is_plain`.

        Returns:
            Flat indices into ``[B * T]``: the first step of every trial, then the second of all that reach it, and so
            on, longest trial first; and, on the CPU, the number of trials that reach each step.
        """
        assert self._starts is not None
        n_steps = self.shape[0] * self.shape[1]
        flat = torch.arange(n_steps, device=self._starts.device)
        by_start = self._starts.argsort()
        lengths = self._lengths[by_start]
        ranks = by_start.repeat_interleave(lengths)  # (B * T): place of each step's trial, longest first
        steps = flat - self._starts[by_start].repeat_interleave(lengths)
        order = (steps * len(self._starts) + ranks).argsort()
        return order, steps.bincount().cpu()

    def gather(self, x: Tensor, chunk: Chunk) -> Tensor:
        """Return the steps ``[n_trials, length, D]`` of ``chunk`` from ``x [B, T, D]``."""
        if chunk.indices is None:
            return x[:, chunk.start : chunk.start + chunk.length]
        return x.flatten(0, 1)[chunk.indices]

    def scatter(self, outputs: list[tuple[Chunk, Tensor]]) -> Tensor:
        """Put the outputs ``[n_trials, length, D]`` of all chunks back in place: ``[B, T, D]``."""
        if self._starts is None:
            return torch.cat([y for _, y in outputs], dim=1)
        flat, indices = [], []
        for chunk, y in outputs:
            assert chunk.indices is not None
            steps = torch.arange(chunk.start, chunk.start + chunk.length, device=y.device)
            valid = steps < self._lengths[: chunk.n_trials, None]
            flat.append(y[valid])
            indices.append(chunk.indices[valid])
        order = torch.cat(indices).argsort()
        return torch.cat(flat)[order].unflatten(0, self.shape)
