"""From observations to actions: encoders, heads, and the policy that keeps the memory while acting."""

from memo_lightning.policies.agent import Agent, AgentState
from memo_lightning.policies.encoders import Encoder, VectorEncoder
from memo_lightning.policies.memory_policy import MemoryPolicy
from memo_lightning.policies.observation_encoder import ObservationEncoder
from memo_lightning.policies.spec import Interface, PolicySpec

__all__ = [
    "Agent",
    "AgentState",
    "Encoder",
    "Interface",
    "MemoryPolicy",
    "ObservationEncoder",
    "PolicySpec",
    "VectorEncoder",
]
