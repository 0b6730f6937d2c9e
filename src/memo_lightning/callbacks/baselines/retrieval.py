"""``baseline=retrieval``."""

from memo_lightning.callbacks.baselines.base import Baseline
from memo_lightning.models import RetrievalMemory


class RetrievalBaseline(Baseline):
    """A key-value store of segments that is searched by attention, trained with a memory loss."""

    model_class = RetrievalMemory
