"""Recurrent Memory Transformer (Bulatov et al. 2022, arXiv 2207.06881), in the form that Memo's paper uses."""

from __future__ import annotations

from typing import Any

from memo_lightning.models.base import SequenceModel
from memo_lightning.models.memo import Count, MemoTransformer


class RecurrentMemoryTransformer(MemoTransformer):
    """Memo, except that a new summary replaces the old one: a memory of constant size.

    Positions start again with each segment, and the summary's start at 0. The new summary's keys and values are
    computed without the old one as context, both in acting and in training. (In the official code the new summary sees
    the old one in acting, but not in training.)

    Args:
        segment_length: L, steps per segment.
        summary_length: S, tokens of the summary; it may exceed ``segment_length``.
        equal_memory_at: trial length at which the one summary is as long as all of Memo's together, with Memo writing
            ``summary_length`` tokens per segment. None for a summary of ``summary_length`` tokens.
        **settings: further arguments of :class:`MemoTransformer`; ``memory_budget``, ``max_summary_age`` and
            ``gradient_segments`` must be None.

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
        """Return the S at which one summary is as long as all of Memo's together at the end of a trial.

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
        """Raise ``ValueError`` if the summary is empty; as the only one, it may be longer than a segment."""
        if summary_length < 1:
            raise ValueError(f"summary_length={summary_length}: must be at least 1")

    def check_memory_budget(self, budget: int) -> None:
        """Raise ``ValueError``: the memory already has a constant size."""
        SequenceModel.check_memory_budget(self, budget)

    def check_gradient_segments(self, gradient_segments: int) -> None:
        """Raise ``ValueError``: only the next segment reads a summary, and must send it gradient."""
        raise ValueError(f"gradient_segments={gradient_segments}: must be None for {type(self).__name__}")

    def check_max_summary_age(self, max_summary_age: int, gradient_segments: int | None) -> None:
        """Raise ``ValueError``: there is only one summary, of the segment just before."""
        raise ValueError(f"max_summary_age={max_summary_age}: must be None for {type(self).__name__}")

    def budget_of_trial(self, n_steps: int) -> None:
        """Return None: the memory already has a constant size."""

    @property
    def max_summaries(self) -> int:
        """The number of summaries kept: only the newest."""
        return 1

    def first_position(self, n_segments: Count) -> Count:
        """Return the position of the first step after ``n_segments`` complete segments."""
        return (n_segments > 0) * self.summary_length
