"""``baseline=lstm``."""

from memo_lightning.callbacks.baselines.base import Baseline
from memo_lightning.models import LSTM


class LSTMBaseline(Baseline):
    """A recurrent policy as in RL^2 (arXiv 1611.02779), with an LSTM."""

    model_class = LSTM
