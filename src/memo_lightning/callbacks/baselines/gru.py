"""``baseline=gru``."""

from memo_lightning.callbacks.baselines.base import Baseline
from memo_lightning.models import GRU


class GRUBaseline(Baseline):
    """A recurrent policy as in RL^2 (arXiv 1611.02779), with a GRU."""

    model_class = GRU
