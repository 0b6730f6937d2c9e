"""The policy: encoder, sequence model and heads, and the memory it holds while acting."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.modules import ProbabilisticActor

from memo_lightning.errors import TrainingStopped, UserError
from memo_lightning.models import SequenceModel
from memo_lightning.policies.action import ACTION_MASK
from memo_lightning.policies.encoders import Encoder, name_of
from memo_lightning.policies.exploration import CorrelatedNoise
from memo_lightning.policies.heads import PolicyHeads
from memo_lightning.policies.input_history import InputHistory
from memo_lightning.policies.normalizer import Normalizer
from memo_lightning.policies.precision import full_precision
from memo_lightning.policies.previous_step import PREVIOUS_STEP


class MemoryPolicy(TensorDictModuleBase):
    """Acts one step at a time with a memory of its own, and is trained on whole sequences without it.

    The memory has one slot per environment. It never enters the rollout: it is inference state, emptied where
    ``is_init`` is set and recomputed in training by running the sequence model over the whole sequence.

    Weights that change during a trial leave a stale memory, made by the weights before. Where :meth:`keep_inputs` was
    called, the policy keeps what it has seen, notices by ``weights_version`` that its weights are new, in whatever
    process they reach it, and recomputes its memory from the inputs (the cache refresh of arXiv 2510.19732).

    Args:
        encoder: turns observations into vectors of the sequence model's width.
        sequence_model: the memory; swapped by the baseline callback.
        heads: choose actions.
        normalizer: running statistics of what is observed; None for none.
        masked: whether ``action_mask`` says which actions are allowed.
    """

    weights_version: Tensor

    def __init__(
        self,
        encoder: Encoder,
        sequence_model: SequenceModel,
        heads: PolicyHeads,
        normalizer: Normalizer | None = None,
        *,
        masked: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.sequence_model, self.heads = encoder, sequence_model, heads
        self.normalizer = normalizer
        self.input_keys: list[NestedKey] = [*encoder.in_keys, "is_init", "episode_end"]
        self.head_keys: list[NestedKey] = [ACTION_MASK] if masked else []
        self.in_keys = [*self.input_keys, *self.head_keys]
        self.out_keys = list(heads.out_keys)
        # A buffer, because it must travel with the weights: to other processes, and into checkpoints.
        self.register_buffer("weights_version", torch.zeros((), dtype=torch.int64))
        self._memory: TensorDict | None = None
        self._history: InputHistory | None = None
        self._memory_version = 0
        self._noise: CorrelatedNoise | None = None

    @property
    def actor(self) -> ProbabilisticActor:
        """The head that chooses actions."""
        return self.heads.actor

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights_version.device

    def keep_inputs(self, *, shuffle_episodes: bool) -> None:
        """Keep the inputs of the running trials from now on, to refresh the memory from them after an update.

        Args:
            shuffle_episodes: put the complete episodes of a trial in random order at every refresh.
        """
        self._history = InputHistory(shuffle_episodes)

    def share_inputs(self, rollout: TensorDictBase) -> None:
        """Keep the inputs of the running trials where a rollout ``[N, t]`` has them, and no copy of them beside it.

        Nothing is done where they were acted elsewhere, as by workers, or are to be shuffled.
        """
        if self._history is not None and self._history.n_steps == rollout.shape[1]:
            self._history.share(rollout.select(*self.input_keys))

    def correlate_noise(self, correlation: float) -> None:
        """Explore from now on by noise that is correlated from step to step, where actions are continuous."""
        self._noise = CorrelatedNoise(correlation)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Act: add ``out_keys`` to the step ``[N]`` of N environments.

        Actions are sampled, or taken at the mode, according to TorchRL's exploration type.

        Raises:
            TrainingStopped: if an observation is not finite.
        """
        n_envs = tensordict.batch_size[0]
        starts = self.memory_starts(tensordict)
        # Where every environment begins a trial the memory is made anew: what is acted must not depend, not even in
        # rounding, on how far the buffers had grown before, or a resumed run would not be the same run.
        if self._memory is None or self._memory.batch_size[0] != n_envs or bool(starts.all()):
            self.reset_state()
            self._memory = self.sequence_model.init_state(n_envs)
        if self._history is not None:
            if self._memory_version != int(self.weights_version):
                self._refresh(self._history)
            self._history.append(tensordict.select(*self.input_keys))
        try:
            hidden, self._memory = self.sequence_model.step(self.encode(tensordict), self._memory, starts)
        except ValueError:
            if bad := self.non_finite_input(tensordict):
                raise TrainingStopped(bad) from None
            raise
        heads = self.heads(self.head_inputs(hidden, tensordict))
        if self._noise is not None and exploration_type() is ExplorationType.RANDOM:
            distribution = self.actor.get_dist(heads)
            heads["action"] = self._noise.sample(distribution, starts)
            heads["action_log_prob"] = distribution.log_prob(heads["action"])
        return tensordict.update(heads.select(*self.out_keys))

    def encode(self, tensordict: TensorDictBase) -> Tensor:
        """Return what the memory reads, float32 ``[*batch, D]``, of policy inputs ``[*batch]``."""
        with full_precision(self.device):
            return self.encoder(tensordict if self.normalizer is None else self.normalizer(tensordict))

    def encode_sequences(self, sequences: TensorDictBase, gradient_from: int = 0) -> Tensor:
        """Return what the memory reads, float32 ``[B, T, D]``, of sequences ``[B, T]``; see :class:`Encoder`."""
        return self.encoder.encode_sequences(self.encode, sequences, gradient_from)

    def hidden(
        self,
        sequences: TensorDictBase,
        segment_length: int | None = None,
        *,
        encoder_gradient_from: int = 0,
        **settings: Any,
    ) -> Tensor:
        """Return what the heads read, float32 ``[B, T, D]`` with gradient, for whole sequences ``[B, T]``.

        Args:
            sequences: policy inputs ``[B, T]``.
            segment_length: see :meth:`SequenceModel.forward`.
            encoder_gradient_from: the first step at which observations are encoded with gradient.
            settings: other settings of the pass, as in :meth:`SequenceModel.forward`.
        """
        inputs = self.encode_sequences(sequences, encoder_gradient_from)
        return self.sequence_model(inputs, self.memory_starts(sequences), segment_length, **settings).float()

    @torch.no_grad()
    def next_values(self, inputs: TensorDictBase, which: Tensor) -> Tensor:
        """Return what some environments' next observations are worth, under the memory as it is and remains.

        Args:
            inputs: policy inputs ``[N]`` that would come next.
            which: int64 ``[n]``, the environments.

        Returns:
            Values ``[n, 1]``.
        """
        assert self._memory is not None, "nothing was acted yet"
        which = which.cpu()  # as the counters of a memory are
        inputs, memory = inputs[which], self._memory[which]
        hidden, _ = self.sequence_model.step(self.encode(inputs), memory, None)
        return self.heads.critic(self.head_inputs(hidden, inputs)).get("state_value")  # type: ignore[operator]

    def memory_nbytes(self) -> int:
        """Return the bytes that the memory holds now."""
        return 0 if self._memory is None else self.sequence_model.state_nbytes(self._memory)

    def set_memory_budget(self, budget: int | None) -> None:
        """Bound the memory, or with None let it grow; see :attr:`SequenceModel.memory_budget`.

        Raises:
            UserError: if the memory cannot work within that budget.
        """
        try:
            self.sequence_model.memory_budget = budget
        except ValueError as error:
            raise UserError(str(error)) from None

    def reset_state(self) -> None:
        """Drop the memory of all environments."""
        self._memory = None
        self._memory_version = int(self.weights_version)
        if self._history is not None:
            self._history.clear()

    def head_inputs(self, hidden: Tensor, inputs: TensorDictBase) -> TensorDict:
        """Return what the heads read ``[*batch]``: the memory's outputs, and which actions are allowed."""
        masks = {key: inputs.get(key) for key in self.head_keys}
        return TensorDict({"hidden": hidden.float(), **masks}, hidden.shape[:-1])

    def memory_starts(self, tensordict: TensorDictBase) -> Tensor:
        """Return bool ``[*batch]``, where the memory is emptied: at trial starts, or at all episode starts."""
        starts = tensordict.get("is_init")
        if self.sequence_model.memory_scope == "episode":
            starts = starts | tensordict.get("episode_end")  # of the step before
        return starts.squeeze(-1)

    def non_finite_input(self, inputs: TensorDictBase) -> str | None:
        """Return in words which of the policy inputs ``[N]`` is not finite; None if all are."""
        for key in self.encoder.in_keys:
            bad = ~inputs.get(key).isfinite()
            if bad.any():
                environment, *_ = bad.nonzero()[0].tolist()
                value = inputs.get(key)[bad][0].item()
                if key == PREVIOUS_STEP:  # of which the action is the policy's own, and the end of an episode a flag
                    return f"the reward of environment {environment} is {value}: must be finite"
                return f"observation {name_of(key)!r} of environment {environment} holds {value}: must be finite"
        return None

    @torch.no_grad()
    def _refresh(self, history: InputHistory) -> None:
        """Recompute the memory with the weights as they are."""
        self._memory_version = int(self.weights_version)
        sequences = history.sequences(seed=self._memory_version)
        _, self._memory = self.sequence_model.prefill(self.encode_sequences(sequences), self.memory_starts(sequences))
