"""Baselines: callbacks that put another memory in the policy; one file each."""

from memo_lightning.callbacks.baselines.autocompressor import AutoCompressorBaseline
from memo_lightning.callbacks.baselines.base import Baseline
from memo_lightning.callbacks.baselines.custom import CustomBaseline
from memo_lightning.callbacks.baselines.direct_kv import DirectKVBaseline
from memo_lightning.callbacks.baselines.full_context import FullContextBaseline
from memo_lightning.callbacks.baselines.gru import GRUBaseline
from memo_lightning.callbacks.baselines.lstm import LSTMBaseline
from memo_lightning.callbacks.baselines.memoryless import MemorylessBaseline
from memo_lightning.callbacks.baselines.no_iea import NoInterEpisodeAttentionBaseline
from memo_lightning.callbacks.baselines.retrieval import RetrievalBaseline
from memo_lightning.callbacks.baselines.rmt import RecurrentMemoryBaseline

__all__ = [
    "AutoCompressorBaseline",
    "Baseline",
    "CustomBaseline",
    "DirectKVBaseline",
    "FullContextBaseline",
    "GRUBaseline",
    "LSTMBaseline",
    "MemorylessBaseline",
    "NoInterEpisodeAttentionBaseline",
    "RecurrentMemoryBaseline",
    "RetrievalBaseline",
]
