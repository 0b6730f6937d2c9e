"""The policy: encoder, sequence model and heads, and the memory it holds while acting."""

from __future__ import annotations

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import TensorSpec
from torchrl.modules import ProbabilisticActor, ValueOperator

from memo_lightning.models import SequenceModel
from memo_lightning.policies.encoders import Encoder
from memo_lightning.policies.heads import build_actor, build_critic


class MemoryPolicy(TensorDictModuleBase):
    """Acts one step at a time with a memory of its own, and is trained on whole rows without it.

    The memory has one slot per environment. It never enters the rollout: it is inference state, emptied where
    ``is_init`` is set and recomputed in training by running the sequence model over the row.

    Args:
        encoder: turns observations into vectors of the sequence model's width.
        sequence_model: the memory; swapped by the baseline callbacks.
        action_spec: the environment's action spec.
    """

    actor: ProbabilisticActor
    critic: ValueOperator

    def __init__(self, encoder: Encoder, sequence_model: SequenceModel, action_spec: TensorSpec) -> None:
        super().__init__()
        self.encoder = encoder
        self.sequence_model = sequence_model
        self.actor = build_actor(sequence_model.d_model, action_spec)
        self.critic = build_critic(sequence_model.d_model)
        self.in_keys = [*encoder.in_keys, "is_init", "episode_end"]
        self.out_keys = ["action", "action_log_prob", "state_value"]
        self._memory: TensorDict | None = None

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Act: add ``action``, ``action_log_prob`` and ``state_value`` to the step ``[N]`` of N environments.

        Actions are sampled, or taken at the mode, according to TorchRL's exploration type.
        """
        n_envs = tensordict.batch_size[0]
        starts = self._memory_starts(tensordict)
        # Where all rows start anew the memory is made anew: what is acted must not depend, not even in rounding, on
        # how far the buffers had grown before, or a run that goes on from a checkpoint would not be the same run.
        if self._memory is None or self._memory.batch_size[0] != n_envs or bool(starts.all()):
            self._memory = self.sequence_model.init_state(n_envs)
        hidden, self._memory = self.sequence_model.step(self.encoder(tensordict), self._memory, starts)
        heads = self.critic(self.actor(TensorDict({"hidden": hidden}, tensordict.batch_size)))
        return tensordict.update(heads.select(*self.out_keys))

    def hidden(self, rows: TensorDictBase) -> Tensor:
        """Return what the heads read, ``[B, T, D]`` with gradient, for whole rows ``[B, T]``."""
        return self.sequence_model(self.encoder(rows), self._memory_starts(rows))

    def memory_nbytes(self) -> int:
        """Return the bytes that the memory holds now."""
        return 0 if self._memory is None else self.sequence_model.state_nbytes(self._memory)

    def forget(self) -> None:
        """Drop the memory of all environments."""
        self._memory = None

    def _memory_starts(self, tensordict: TensorDictBase) -> Tensor:
        """Return bool ``[*batch]``, where the memory is emptied: at trial starts, or at all episode starts."""
        starts = tensordict.get("is_init")
        if self.sequence_model.memory_scope == "episode":
            starts = starts | tensordict.get("episode_end")  # of the step before
        return starts.squeeze(-1)
