"""``baseline=rmt``."""

from typing import Any

from memo_lightning.callbacks.baselines.base import Baseline
from memo_lightning.models import RecurrentMemoryTransformer


class RecurrentMemoryBaseline(Baseline):
    """A Recurrent Memory Transformer (arXiv 2207.06881): each summary replaces the one before.

    Args:
        equal_memory_at: trial length at which the memory is as large as Memo's with ``summary_length`` tokens per
            segment; ``summary_length`` itself when None.
        settings: arguments of :class:`RecurrentMemoryTransformer`.
    """

    model_class = RecurrentMemoryTransformer

    def __init__(self, *, equal_memory_at: int | None = None, **settings: Any) -> None:
        if equal_memory_at is not None:
            settings["summary_length"] = RecurrentMemoryTransformer.summary_length_of_equal_memory(
                equal_memory_at, settings["segment_length"], settings["summary_length"]
            )
        super().__init__(**settings)
