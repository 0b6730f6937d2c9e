"""The policy: encoder, sequence model and heads, and the memory that it keeps while acting."""

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
from memo_lightning.models.recorded_pass import RecordedPasses
from memo_lightning.policies.action import ACTION_MASK
from memo_lightning.policies.encoders import Encoder, name_of
from memo_lightning.policies.exploration import CorrelatedNoise
from memo_lightning.policies.heads import PolicyHeads
from memo_lightning.policies.input_history import InputHistory
from memo_lightning.policies.normalizer import Normalizer
from memo_lightning.policies.precision import full_precision
from memo_lightning.policies.previous_step import PREVIOUS_STEP
from memo_lightning.policies.recorded_steps import RecordedSteps


class MemoryPolicy(TensorDictModuleBase):
    """A policy that acts step by step with its own memory, and is trained on whole sequences without it.

    The memory has one slot per environment. It is inference state and never part of a rollout: it is cleared where
    ``is_init`` is set, and training recomputes it by running the sequence model over whole sequences.

    If the weights change during a trial, the memory becomes stale: the old weights made it. After a call of
    :meth:`keep_inputs`, the policy therefore keeps the inputs of the running trials. It detects new weights by
    ``weights_version``, in whichever process they arrive, and recomputes its memory from the inputs (the cache refresh
    of arXiv 2510.19732).

    Args:
        encoder: maps observations to vectors of the sequence model's width.
        sequence_model: the memory; the baseline callback swaps it.
        heads: choose actions.
        normalizer: normalises observations and rewards by running statistics; None for no normalisation.
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
        # A buffer, because it must travel with the weights to other processes and into checkpoints.
        self.register_buffer("weights_version", torch.zeros((), dtype=torch.int64))
        self._memory: TensorDict | None = None
        self._history: InputHistory | None = None
        self._memory_version = 0
        self._noise: CorrelatedNoise | None = None
        self._recorded: RecordedPasses | None = None
        self._recorded_steps: RecordedSteps | None = None

    @property
    def actor(self) -> ProbabilisticActor:
        """The policy head, which chooses actions."""
        return self.heads.actor

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""
        return self.weights_version.device

    def keep_inputs(self, *, shuffle_episodes: bool) -> None:
        """Keep the inputs of the running trials from now on, so that the memory can be refreshed after an update.

        Args:
            shuffle_episodes: whether to put the complete episodes of a trial in random order at every refresh.
        """
        self._history = InputHistory(shuffle_episodes)

    def share_inputs(self, rollout: TensorDictBase) -> None:
        """Refer to the inputs in a rollout ``[N, t]`` instead of keeping a copy of them.

        Does nothing if another policy has acted, as with workers, or if episodes are to be shuffled.
        """
        if self._history is not None and self._history.n_steps == rollout.shape[1]:
            self._history.share(rollout.select(*self.input_keys))

    def record_passes(self) -> None:
        """Record passes over whole sequences as CUDA graphs from now on; the policy must be trained on one GPU.

        Raises:
            ValueError: if the memory cannot be recorded.
        """
        self._recorded = RecordedPasses(self.sequence_model)

    def record_steps(self, n_steps: int) -> None:
        """Record acting steps as CUDA graphs from now on; the policy must act on one GPU, for at most ``n_steps``.

        While the policy keeps its inputs (:meth:`keep_inputs`), they are not, as a recorded memory cannot be refreshed.

        Raises:
            ValueError: see :class:`~memo_lightning.policies.recorded_steps.RecordedSteps`.
        """
        self._recorded_steps = RecordedSteps(self, n_steps)

    @property
    def _steps_to_replay(self) -> RecordedSteps | None:
        return self._recorded_steps if self._history is None else None

    def correlate_noise(self, correlation: float) -> None:
        """Explore with temporally correlated noise from now on; actions must be continuous."""
        self._noise = CorrelatedNoise(correlation)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Act: add ``out_keys`` to a step ``[N]`` of N environments.

        Actions are sampled, or set to the mode, according to TorchRL's exploration type.

        If the policy is on a GPU, its inputs should be on the CPU, as they come from the environments: what decides
        the course of the step is then read without waiting for the GPU.

        Returns:
            The ``tensordict``, or a copy of it on the policy's device if that is another one.

        Raises:
            TrainingStopped: if an observation is not finite; in inputs on a GPU, this is not checked.
        """
        starts = self.memory_starts(tensordict)
        if starts.device != self.device:
            if bad := self.non_finite_input(tensordict):
                raise TrainingStopped(bad)
            tensordict = tensordict.to(self.device, non_blocking=True)
        if (steps := self._steps_to_replay) is not None:
            heads = self.heads.choose(steps(tensordict, starts))
        else:
            heads = self.heads(self.head_inputs(self._remember(tensordict, starts), tensordict))
        if self._noise is not None and exploration_type() is ExplorationType.RANDOM:
            distribution = self.actor.build_dist_from_params(heads)
            heads["action"] = self._noise.sample(distribution, self.memory_starts(tensordict))
            heads["action_log_prob"] = distribution.log_prob(heads["action"])
        return tensordict.update(heads.select(*self.out_keys))

    def _remember(self, inputs: TensorDictBase, starts: Tensor) -> Tensor:
        """Take a step of the memory, which is emptied where ``starts [N]`` is true; return its outputs ``[N, D]``."""
        # Where every environment begins a trial, the memory is built anew. Actions must not depend on how far its
        # buffers had grown before, not even by rounding, or a resumed run would differ from an uninterrupted one.
        if self._memory is None or self._memory.batch_size != inputs.batch_size:
            self.reset_state()
            self._memory = self.sequence_model.init_state(len(starts))
        elif bool(starts.all()):
            self._memory = self.sequence_model.init_state(len(starts))
            self._memory_version = int(self.weights_version)
            if self._history is not None and bool(inputs.get("is_init").all()):  # not where only episodes begin
                self._history.clear()
        if self._history is not None:
            if self._memory_version != int(self.weights_version):
                self._refresh(self._history)
            self._history.append(inputs.select(*self.input_keys))
        try:
            hidden, self._memory = self.sequence_model.step(self.encode(inputs), self._memory, starts)
        except ValueError:
            if bad := self.non_finite_input(inputs):
                raise TrainingStopped(bad) from None
            raise
        return hidden

    def encode(self, tensordict: TensorDictBase) -> Tensor:
        """Encode policy inputs ``[*batch]`` as inputs of the sequence model, float32 ``[*batch, D]``."""
        with full_precision(self.device):
            return self.encoder(tensordict if self.normalizer is None else self.normalizer(tensordict))

    def encode_sequences(self, sequences: TensorDictBase, gradient_from: int = 0) -> Tensor:
        """Encode sequences ``[B, T]`` as inputs of the sequence model, float32 ``[B, T, D]``; see :class:`Encoder`."""
        return self.encoder.encode_sequences(self.encode, sequences, gradient_from)

    def hidden(
        self,
        sequences: TensorDictBase,
        segment_length: int | None = None,
        *,
        encoder_gradient_from: int = 0,
        **settings: Any,
    ) -> Tensor:
        """Return the inputs of the heads, float32 ``[B, T, D]`` with gradient, for whole sequences ``[B, T]``.

        Args:
            sequences: policy inputs ``[B, T]``.
            segment_length: see :meth:`SequenceModel.forward`.
            encoder_gradient_from: the first step whose observation is encoded with gradient.
            settings: further settings of :meth:`SequenceModel.forward`.
        """
        inputs, read = self.encode_sequences(sequences, encoder_gradient_from), self._recorded or self.sequence_model
        return read(inputs, self.memory_starts(sequences), segment_length, **settings).float()

    @torch.no_grad()
    def next_values(self, inputs: TensorDictBase, which: Tensor) -> Tensor:
        """Estimate the values of some environments' next observations, without changing the memory.

        Args:
            inputs: policy inputs ``[N]`` of the step that would come next.
            which: int64 ``[n]``, indices of the environments.

        Returns:
            Values ``[n, 1]``.
        """
        which = which.cpu()  # where the counters of a memory are
        inputs = inputs[which]
        if (steps := self._steps_to_replay) is not None:
            hidden = steps.peek(inputs, which)
        else:
            assert self._memory is not None, "no step was taken yet"
            hidden, _ = self.sequence_model.step(self.encode(inputs), self._memory[which], None)
        return self.heads.critic(self.head_inputs(hidden, inputs)).get("state_value")  # type: ignore[operator]

    def set_memory_budget(self, budget: int | None) -> None:
        """Bound the memory, or let it grow if ``budget`` is None; see :attr:`SequenceModel.memory_budget`.

        Raises:
            UserError: if the memory cannot work within the budget.
        """
        try:
            self.sequence_model.memory_budget = budget
        except ValueError as error:
            raise UserError(str(error)) from None

    def reset_state(self) -> None:
        """Clear the memory of all environments."""
        self._memory = None
        self._memory_version = int(self.weights_version)
        if self._history is not None:
            self._history.clear()
        if self._recorded_steps is not None:
            self._recorded_steps.reset()

    def head_inputs(self, hidden: Tensor, inputs: TensorDictBase) -> TensorDict:
        """Return the inputs of the heads ``[*batch]``: the memory's outputs and, if there is one, the action mask."""
        masks = {key: inputs.get(key) for key in self.head_keys}
        return TensorDict({"hidden": hidden.float(), **masks}, hidden.shape[:-1])

    def memory_starts(self, tensordict: TensorDictBase) -> Tensor:
        """Return bool ``[*batch]``, true where the memory is cleared: at trial starts, or at all episode starts."""
        starts = tensordict.get("is_init")
        if self.sequence_model.memory_scope == "episode":
            starts = starts | tensordict.get("episode_end")  # of the previous step
        return starts.squeeze(-1)

    def non_finite_input(self, inputs: TensorDictBase) -> str | None:
        """Describe the first of the policy inputs ``[N]`` that is not finite; None if all are finite."""
        for key in self.encoder.in_keys:
            bad = ~inputs.get(key).isfinite()
            if bad.any():
                environment, *_ = bad.nonzero()[0].tolist()
                value = inputs.get(key)[bad][0].item()
                if key == PREVIOUS_STEP:  # its other parts are the policy's own action and a flag
                    return f"the reward of environment {environment} is {value}: must be finite"
                return f"observation {name_of(key)!r} of environment {environment} holds {value}: must be finite"
        return None

    @torch.no_grad()
    def _refresh(self, history: InputHistory) -> None:
        """Recompute the memory with the current weights."""
        self._memory_version = int(self.weights_version)
        sequences = history.sequences(seed=self._memory_version)
        _, self._memory = self.sequence_model.prefill(self.encode_sequences(sequences), self.memory_starts(sequences))
