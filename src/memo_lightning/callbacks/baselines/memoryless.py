"""``baseline=memoryless``."""

from memo_lightning.callbacks.baselines.base import Baseline
from memo_lightning.models import Memoryless


class MemorylessBaseline(Baseline):
    """A feed-forward policy: what can be had without memory."""

    model_class = Memoryless
