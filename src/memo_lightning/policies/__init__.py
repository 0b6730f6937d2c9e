"""From observations to actions: encoders, heads, and the policy that holds the memory while acting."""

from memo_lightning.policies.encoders import Encoder, VectorEncoder
from memo_lightning.policies.entry_encoder import EntryEncoder
from memo_lightning.policies.memory_policy import MemoryPolicy

__all__ = ["Encoder", "EntryEncoder", "MemoryPolicy", "VectorEncoder"]
