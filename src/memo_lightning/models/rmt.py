"""Recurrent Memory Transformer (Bulatov et al. 2022, arXiv 2207.06881), as Memo's paper compares with it."""

from __future__ import annotations

from typing import Any

from memo_lightning.models.base import SequenceModel
from memo_lightning.models.memo import Count, MemoTransformer


class RecurrentMemoryTransformer(MemoTransformer):
    """Memo, except that a new summary replaces the old one: a memory of constant size.

    Positions start again with each segment, the summary's at 0. The new summary's keys and values are
    computed without the old one as context, in acting as in training (the official acting code lets it see
    the old one, which its training does not).

    Args:
        segment_length: L, steps per segment.
        summary_length: S, tokens of the summary; it may exceed ``segment_length``.
        equal_memory_at: trial length at which the one summary is as long as all of Memo's together, if Memo writes
            ``summary_length`` tokens per segment. None for a summary of ``summary_length`` tokens.
        **settings: further arguments of :class:`MemoTransformer`, of which ``memory_budget`` and ``gradient_segments``
            must be None.

    Raises:
        ValueError: if the sizes do not fit together.
    """

    def __init__(
        self, segment_length: int, summary_length: int, equal_memory_at: int | None = None, **settings: Any
    ) -> None:
        if equal_memory_at is not None:
            summary_length = self.summary_length_of_equal_memory(equal_memory_at, segment_length, summary_length)
        super().__init__(segment_length, summary_length, **settings)

    @staticmethod
    def summary_length_of_equal_memory(trial_length: int, segment_length: int, summary_length: int) -> int:
        """Return the S whose one summary is as long as all of Memo's at the end of a trial.

        Args:
            trial_length: steps of the trial.
            segment_length: L of both models.
            summary_length: S of the Memo model.

        Raises:
            ValueError: if the trial is too short for a summary.
        """
        n_summaries = trial_length // segment_length
        if n_summaries < 1:
            raise ValueError(f"equal_memory_at={trial_length}: must be at least segment_length={segment_length}")
        return n_summaries * summary_length

    @staticmethod
    def check_summary_length(summary_length: int, segment_length: int) -> None:
        """Raise ``ValueError`` unless there is a summary; there is only one, so it may be long."""
        if summary_length < 1:
            raise ValueError(f"summary_length={summary_length}: must be at least 1")

    def check_memory_budget(self, budget: int) -> None:
        """Raise ``ValueError``: the memory is of constant size as it is."""
        SequenceModel.check_memory_budget(self, budget)

    def check_gradient_segments(self, gradient_segments: int) -> None:
        """Raise ``ValueError``: a summary is read by the next segment only, which it is to carry gradient into."""
        raise ValueError(f"gradient_segments={gradient_segments}: must be None for {type(self).__name__}")

    def budget_of_trial(self, n_steps: int) -> None:
        """Return None: the memory is of constant size as it is."""

    @property
    def max_summaries(self) -> int:
        """Summaries that are kept: the newest."""
        return 1

    def first_position(self, n_segments: Count) -> Count:
        """Return the position of the first step after ``n_segments`` complete segments."""
        return (n_segments > 0) * self.summary_length
