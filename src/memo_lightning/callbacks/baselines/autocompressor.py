"""``baseline=autocompressor``."""

from memo_lightning.callbacks.baselines.base import Baseline
from memo_lightning.models import MemoTransformer


class AutoCompressorBaseline(Baseline):
    """Memo with truncated gradients (arXiv 2305.14788): older summaries are detached."""

    model_class = MemoTransformer
