"""Sequence models: pure torch, ``[B, T, D] -> [B, T, D]``, and one step at a time with a state."""

from memo_lightning.models.base import SequenceModel
from memo_lightning.models.memo import MemoTransformer
from memo_lightning.models.official import load_official_state_dict

__all__ = ["MemoTransformer", "SequenceModel", "load_official_state_dict"]
