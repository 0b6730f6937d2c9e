"""Sequence models: pure torch, ``[B, T, D] -> [B, T, D]``, and one step at a time with a state."""

from memo_lightning.models.base import MemoryScope, SequenceModel
from memo_lightning.models.direct_kv import DirectKVTransformer
from memo_lightning.models.full_context import FullContextTransformer
from memo_lightning.models.memo import MemoTransformer
from memo_lightning.models.official import load_official_state_dict
from memo_lightning.models.rmt import RecurrentMemoryTransformer

__all__ = [
    "DirectKVTransformer",
    "FullContextTransformer",
    "MemoTransformer",
    "MemoryScope",
    "RecurrentMemoryTransformer",
    "SequenceModel",
    "load_official_state_dict",
]
