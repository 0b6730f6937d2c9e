"""Recurrent Memory Transformer (Bulatov et al. 2022, arXiv 2207.06881), as Memo's paper compares with it."""

from __future__ import annotations

from memo_lightning.models.base import SequenceModel
from memo_lightning.models.memo import Count, MemoTransformer


class RecurrentMemoryTransformer(MemoTransformer):
    """Memo, except that a new summary replaces the old one: a memory of constant size.

    Positions start again with each segment, the summary's at 0. The new summary's keys and values are
    computed without the old one as context, in acting as in training (the official acting code lets it see
    the old one, which its training does not).

    Args:
        d_model: width D; a multiple of ``n_heads``.
        n_layers: number of transformer blocks.
        n_heads: attention heads.
        d_ff: inner width of the gated MLP.
        segment_length: L, steps per segment.
        summary_length: S, summary tokens; may exceed L, see :meth:`summary_length_of_equal_memory`.
        segment_jitter: as in :class:`MemoTransformer`.
        checkpoint_segments: as in :class:`MemoTransformer`.
        sink_kv: give every layer a learned key and value that all tokens see.
        rope_base: base of the rotary frequencies.
        norm_eps: epsilon of all RMSNorms.

    Raises:
        ValueError: if the sizes do not fit together.
    """

    def __init__(
        self,
        d_model: int,
        n_layers: int,
        n_heads: int,
        d_ff: int,
        segment_length: int,
        summary_length: int,
        segment_jitter: float = 0.2,
        checkpoint_segments: bool = False,
        sink_kv: bool = False,
        rope_base: float = 10000.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__(
            d_model,
            n_layers,
            n_heads,
            d_ff,
            segment_length,
            summary_length,
            segment_jitter,
            checkpoint_segments=checkpoint_segments,
            sink_kv=sink_kv,
            rope_base=rope_base,
            norm_eps=norm_eps,
        )

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
            raise ValueError(f"trial_length={trial_length}: must be at least segment_length={segment_length}")
        return n_summaries * summary_length

    @staticmethod
    def check_summary_length(summary_length: int, segment_length: int) -> None:
        """Raise ``ValueError`` unless there is a summary; there is only one, so it may be long."""
        if summary_length < 1:
            raise ValueError(f"summary_length={summary_length}: must be at least 1")

    def check_memory_budget(self, budget: int) -> None:
        """Raise ``ValueError``: the memory is of constant size as it is."""
        SequenceModel.check_memory_budget(self, budget)

    @property
    def max_summaries(self) -> int:
        """Summaries that are kept: the newest."""
        return 1

    def first_position(self, n_segments: Count) -> Count:
        """Return the position of the first step after ``n_segments`` complete segments."""
        return (n_segments > 0) * self.summary_length
