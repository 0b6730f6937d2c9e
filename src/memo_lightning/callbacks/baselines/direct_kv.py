"""``baseline=direct_kv``."""

from memo_lightning.callbacks.baselines.base import Baseline
from memo_lightning.models import DirectKVTransformer


class DirectKVBaseline(Baseline):
    """Memo that keeps its summary queries' own keys and values, without a second pass."""

    model_class = DirectKVTransformer
