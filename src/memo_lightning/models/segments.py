"""What all models share that cut a trial into segments."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from memo_lightning.models.base import SequenceModel
from memo_lightning.models.trials import Chunk, Trials


class SegmentedModel(SequenceModel):
    """A model that reads trials in segments of L steps and keeps S tokens of each complete one.

    Args:
        d_model: width D.
        segment_length: L, steps per segment.
        summary_length: S, summary tokens per segment.
        segment_jitter: in ``train()`` mode, ``forward`` draws one length uniformly from the integers within
            ``segment_jitter * L`` of L. Acting and ``eval()`` always use L.

    Raises:
        ValueError: if a setting is out of range.
    """

    segment_length: int

    def __init__(self, d_model: int, segment_length: int, summary_length: int, segment_jitter: float) -> None:
        super().__init__(d_model)
        if segment_length < 1:
            raise ValueError(f"segment_length={segment_length}: must be at least 1")
        self.check_summary_length(summary_length, segment_length)
        if not 0 <= segment_jitter < 1:
            raise ValueError(f"segment_jitter={segment_jitter}: must be at least 0 and below 1")
        self.segment_length, self.summary_length = segment_length, summary_length
        self.segment_jitter = segment_jitter

    @staticmethod
    def check_summary_length(summary_length: int, segment_length: int) -> None:
        """Raise ``ValueError`` unless summaries are no longer than what they summarise."""
        if not 1 <= summary_length <= segment_length:
            raise ValueError(
                f"summary_length={summary_length}: must be at least 1 and at most segment_length={segment_length}"
            )

    def check_memory_budget(self, budget: int) -> None:
        """Raise ``ValueError`` unless a segment and one summary fit."""
        smallest = self.segment_length + self.summary_length
        if budget < smallest:
            raise ValueError(
                f"memory_budget={budget}: must be at least {smallest}, one segment (segment_length="
                f"{self.segment_length}) and one summary (summary_length={self.summary_length})"
            )

    @property
    def max_summaries(self) -> int | None:
        """Segments whose summaries are kept at most; None for all."""
        if self.memory_budget is None:
            return None
        return (self.memory_budget - self.segment_length) // self.summary_length

    def forward(self, x: Tensor, is_init: Tensor | None = None, segment_length: int | None = None) -> Tensor:
        """Process whole rows, segment by segment; see :meth:`SequenceModel.forward`.

        ``segment_length`` overrides the jitter of ``train()`` mode and the fixed length of ``eval()`` mode.
        """
        self.check_rows(x, is_init)
        if segment_length is None:
            segment_length = self.draw_segment_length() if self.training else self.segment_length
        if segment_length < 1:
            raise ValueError(f"segment_length={segment_length}: must be at least 1")
        trials = Trials((x.shape[0], x.shape[1]), is_init)
        return trials.scatter(self.read_trials(x, trials, segment_length))

    @abstractmethod
    def read_trials(self, x: Tensor, trials: Trials, segment_length: int) -> list[tuple[Chunk, Tensor]]:
        """Return the outputs of every segment of the ``trials`` in ``x [B, T, D]``."""

    def draw_segment_length(self) -> int:
        """Draw a jittered segment length, uniform over the integers in ``[(1 - j) L, (1 + j) L]``."""
        spread = int(self.segment_jitter * self.segment_length)
        low, high = self.segment_length - spread, self.segment_length + spread
        return int(torch.randint(low, high + 1, ()))
