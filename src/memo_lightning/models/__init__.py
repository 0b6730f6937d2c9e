"""Sequence models in pure torch: ``[B, T, D] -> [B, T, D]``, or one step at a time with a state."""

from memo_lightning.models.base import MemoryScope, PassSettings, SequenceModel
from memo_lightning.models.direct_kv import DirectKVTransformer
from memo_lightning.models.full_context import FullContextTransformer
from memo_lightning.models.memo import MemoTransformer
from memo_lightning.models.memoryless import Memoryless
from memo_lightning.models.official import load_official_state_dict
from memo_lightning.models.recurrent import GRU, LSTM
from memo_lightning.models.retrieval import RetrievalMemory
from memo_lightning.models.rmt import RecurrentMemoryTransformer

__all__ = [
    "GRU",
    "LSTM",
    "DirectKVTransformer",
    "FullContextTransformer",
    "MemoTransformer",
    "MemoryScope",
    "Memoryless",
    "PassSettings",
    "RecurrentMemoryTransformer",
    "RetrievalMemory",
    "SequenceModel",
    "load_official_state_dict",
]
