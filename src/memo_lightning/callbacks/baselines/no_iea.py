"""``baseline=no_iea``."""

from typing import Any

from memo_lightning.callbacks.baselines.base import Baseline
from memo_lightning.models import FullContextTransformer


class NoInterEpisodeAttentionBaseline(Baseline):
    """A full-context transformer that attends within the current episode only."""

    model_class = FullContextTransformer

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, memory_scope="episode")
