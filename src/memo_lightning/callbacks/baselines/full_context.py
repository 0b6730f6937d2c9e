"""``baseline=full_context``."""

from memo_lightning.callbacks.baselines.base import Baseline
from memo_lightning.models import FullContextTransformer


class FullContextBaseline(Baseline):
    """A causal transformer over the whole trial: nothing is forgotten."""

    model_class = FullContextTransformer
