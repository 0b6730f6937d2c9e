"""The policy: encoder, sequence model and heads, and the memory it holds while acting."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import TensorSpec
from torchrl.modules import ProbabilisticActor, ValueOperator

from memo_lightning.errors import TrainingStopped
from memo_lightning.models import SequenceModel
from memo_lightning.policies.encoders import Encoder
from memo_lightning.policies.heads import build_actor, build_critic
from memo_lightning.policies.input_history import InputHistory


class MemoryPolicy(TensorDictModuleBase):
    """Acts one step at a time with a memory of its own, and is trained on whole rows without it.

    The memory has one slot per environment. It never enters the rollout: it is inference state, emptied where
    ``is_init`` is set and recomputed in training by running the sequence model over the row.

    Weights that change while a trial goes on leave a memory that other weights made. Where :meth:`keep_inputs` was
    called, the policy keeps what it has seen, notices by ``weights_version`` that its weights are new, in whatever
    process they reach it, and makes its memory again from the inputs (the cache refresh of arXiv 2510.19732).

    Args:
        encoder: turns observations into vectors of the sequence model's width.
        sequence_model: the memory; swapped by the baseline callbacks.
        action_spec: the environment's action spec.
    """

    actor: ProbabilisticActor
    critic: ValueOperator
    weights_version: Tensor

    def __init__(self, encoder: Encoder, sequence_model: SequenceModel, action_spec: TensorSpec) -> None:
        super().__init__()
        self.encoder = encoder
        self.sequence_model = sequence_model
        self.actor = build_actor(sequence_model.d_model, action_spec)
        self.critic = build_critic(sequence_model.d_model)
        self.in_keys = [*encoder.in_keys, "is_init", "episode_end"]
        self.out_keys = ["action", "action_log_prob", "state_value"]
        # A buffer, because it must travel with the weights: to other processes, and into checkpoints.
        self.register_buffer("weights_version", torch.zeros((), dtype=torch.int64))
        self._memory: TensorDict | None = None
        self._history: InputHistory | None = None
        self._memory_version = 0

    def keep_inputs(self, *, shuffle_episodes: bool) -> None:
        """Keep the inputs of the running trials from now on, to refresh the memory from them after an update.

        Args:
            shuffle_episodes: put the complete episodes of a trial in random order at every refresh.
        """
        self._history = InputHistory(shuffle_episodes)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Act: add ``action``, ``action_log_prob`` and ``state_value`` to the step ``[N]`` of N environments.

        Actions are sampled, or taken at the mode, according to TorchRL's exploration type.

        Raises:
            TrainingStopped: if an observation is not finite.
        """
        n_envs = tensordict.batch_size[0]
        starts = self._memory_starts(tensordict)
        # Where all rows start anew the memory is made anew: what is acted must not depend, not even in rounding, on
        # how far the buffers had grown before, or a run that goes on from a checkpoint would not be the same run.
        if self._memory is None or self._memory.batch_size[0] != n_envs or bool(starts.all()):
            self.forget()
            self._memory = self.sequence_model.init_state(n_envs)
        if self._history is not None:
            if self._memory_version != int(self.weights_version):
                self._refresh(self._history)
            self._history.append(tensordict.select(*self.in_keys))
        try:
            hidden, self._memory = self.sequence_model.step(self.encoder(tensordict), self._memory, starts)
        except ValueError:
            self._check_observations(tensordict)
            raise
        heads = self.critic(self.actor(TensorDict({"hidden": hidden}, tensordict.batch_size)))
        return tensordict.update(heads.select(*self.out_keys))

    def hidden(self, rows: TensorDictBase, segment_length: int | None = None, **settings: Any) -> Tensor:
        """Return what the heads read, ``[B, T, D]`` with gradient, for whole rows ``[B, T]``.

        ``segment_length`` and the other settings of the pass are as in :meth:`SequenceModel.forward`.
        """
        return self.sequence_model(self.encoder(rows), self._memory_starts(rows), segment_length, **settings)

    def _check_observations(self, tensordict: TensorDictBase) -> None:
        for key in self.encoder.in_keys:
            bad = ~tensordict.get(key).isfinite()
            if bad.any():
                row, *_ = bad.nonzero()[0].tolist()
                value = tensordict.get(key)[bad][0].item()
                raise TrainingStopped(f"observation {key!r} of environment {row} holds {value}: must be finite")

    def memory_nbytes(self) -> int:
        """Return the bytes that the memory holds now."""
        return 0 if self._memory is None else self.sequence_model.state_nbytes(self._memory)

    def forget(self) -> None:
        """Drop the memory of all environments."""
        self._memory = None
        self._memory_version = int(self.weights_version)
        if self._history is not None:
            self._history.clear()

    @torch.no_grad()
    def _refresh(self, history: InputHistory) -> None:
        """Make the memory again, with the weights of now."""
        self._memory_version = int(self.weights_version)
        rows = history.rows(seed=self._memory_version)
        _, self._memory = self.sequence_model.prefill(self.encoder(rows), self._memory_starts(rows))

    def _memory_starts(self, tensordict: TensorDictBase) -> Tensor:
        """Return bool ``[*batch]``, where the memory is emptied: at trial starts, or at all episode starts."""
        starts = tensordict.get("is_init")
        if self.sequence_model.memory_scope == "episode":
            starts = starts | tensordict.get("episode_end")  # of the step before
        return starts.squeeze(-1)
