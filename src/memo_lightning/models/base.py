"""The interface of all sequence models: whole sequences at once, or one step at a time with a state.

Notation used for tensor shapes, here and in all of ``models/``:
    - B: sequences in the batch, one per environment
    - T: time steps
    - D: width of the model (``d_model``)
    - H: attention heads; ``d = D / H`` is the width of one head
    - L: segment length, S: summary length, n: complete segments so far
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from memo_lightning.models.fixed_state import FixedState

MemoryScope = Literal["trial", "episode"]

PassSettings = dict[str, Any]
"""Keyword arguments of :meth:`SequenceModel.forward` that decide how a pass over whole sequences is made."""


class SequenceModel(nn.Module, ABC):
    """A causal map ``[B, T, D] -> [B, T, D]`` with a memory, which can also run one step at a time.

    In ``eval()`` mode, ``forward(x, is_init)`` equals calling ``step`` on ``x[:, 0], x[:, 1], ...`` from
    ``init_state(B)`` with the same ``is_init`` flags. ``prefill(x, is_init)`` also returns the memory that these
    steps would have left.

    Args:
        d_model: width D of inputs and outputs.
        memory_scope: whether the memory spans a ``"trial"`` or an ``"episode"``. The model itself does not know
            episodes: its caller sets ``is_init`` at the first step of every trial or, for ``"episode"``, of every
            episode.

    Attributes:
        memory_scope: what the memory spans, as given.
        state_names: names of the entries of a state.
        segment_length: steps per segment in acting and evaluation; None for models without segments.
        fixed_state_meanings: descriptions of the tensors of :meth:`init_fixed_state`, by the first part of their names.

    Raises:
        ValueError: if ``d_model`` is not positive or ``memory_scope`` unknown.
    """

    state_names: tuple[str, ...] = ()
    segment_length: int | None = None
    fixed_state_meanings: ClassVar[Mapping[str, str]] = {}

    def __init__(self, d_model: int, memory_scope: MemoryScope = "trial") -> None:
        super().__init__()
        if d_model < 1:
            raise ValueError(f"d_model={d_model}: must be at least 1")
        if memory_scope not in get_args(MemoryScope):
            raise ValueError(f"memory_scope={memory_scope!r}: must be one of {', '.join(get_args(MemoryScope))}")
        self.d_model, self.memory_scope = d_model, memory_scope
        self._memory_budget: int | None = None

    @abstractmethod
    def forward(self, x: Tensor, is_init: Tensor | None = None, segment_length: int | None = None) -> Tensor:
        """Process whole sequences.

        Args:
            x: inputs ``[B, T, D]``. Every sequence starts with an empty memory.
            is_init: bool ``[B, T]``, true at the first step of a trial; the memory is emptied before that step.
            segment_length: the segment length to use; models without segments ignore it.

        Returns:
            Outputs ``[B, T, D]``.

        Raises:
            ValueError: if a shape is wrong or ``x`` is not finite.
        """

    @abstractmethod
    def init_state(self, batch_size: int) -> TensorDict:
        """Return an empty memory for ``batch_size`` sequences, on the device of the parameters."""

    @abstractmethod
    def step(self, x_t: Tensor, state: TensorDict, is_init: Tensor | None = None) -> tuple[Tensor, TensorDict]:
        """Process one step of every sequence, without gradient through the memory.

        Args:
            x_t: inputs ``[B, D]``.
            state: the memory returned by ``init_state`` or the previous ``step``. It is updated in place; use
                the returned one from then on.
            is_init: bool ``[B]``, true for sequences whose memory is emptied first. On the CPU, even if the model is
                on a GPU, it can be read without waiting for the GPU.

        Returns:
            Outputs ``[B, D]`` and the memory after the step.

        Raises:
            ValueError: if a shape is wrong, ``state`` belongs to another model or batch size, or ``x_t`` is
                not finite; the last is checked on the CPU only.
        """

    @torch.no_grad()
    def prefill(self, x: Tensor, is_init: Tensor | None = None) -> tuple[Tensor, TensorDict]:
        """Process whole sequences without gradient, as in acting, and return the memory after them.

        Models that can do better than one step at a time override this.

        Args:
            x: inputs ``[B, T, D]``. Every sequence starts with an empty memory.
            is_init: bool ``[B, T]``, true at the first step of a trial.

        Returns:
            Outputs ``[B, T, D]``, as from ``forward`` in ``eval()`` mode, and the memory for ``step`` to continue from.

        Raises:
            ValueError: if a shape is wrong or ``x`` is not finite.
        """
        self.check_sequences(x, is_init)
        state, outputs = self.init_state(x.shape[0]), []
        for t in range(x.shape[1]):
            y_t, state = self.step(x[:, t], state, None if is_init is None else is_init[:, t])
            outputs.append(y_t)
        return torch.stack(outputs, dim=1), state

    def init_fixed_state(self, batch_size: int) -> FixedState:
        """Return an empty memory whose tensors keep their shapes, for :meth:`fixed_step`.

        By default this is the state of :meth:`init_state`, which suits a memory whose :meth:`step` torch can trace.

        Args:
            batch_size: number of sequences B.

        Returns:
            Tensors ``[B, ...]`` by name, on the device of the parameters.

        Raises:
            ValueError: if the memory grows without bound.
        """
        return dict(self.init_state(batch_size).flatten_keys(".").items())

    def fixed_step(
        self, x_t: Tensor, state: FixedState, is_init: Tensor, completes: bool | None = None
    ) -> tuple[Tensor, FixedState]:
        """Process one step like :meth:`step`, with tensor operations that do not depend on the tensors' values.

        ``torch.export`` and ``torch.compile`` can trace it. It checks nothing and changes nothing in place.

        Args:
            x_t: inputs ``[B, D]``.
            state: the memory returned by :meth:`init_fixed_state` or the previous call.
            is_init: bool ``[B]``, true for sequences whose memory is emptied first.
            completes: whether any sequence completes a segment with this step; None if the caller does not know.

        Returns:
            Outputs ``[B, D]`` and the memory after the step, with the same names, shapes and dtypes.
        """
        memory = TensorDict({name: value.clone() for name, value in state.items()}, [len(x_t)])
        y_t, memory = self.step(x_t, memory.unflatten_keys("."), is_init)
        return y_t, dict(memory.flatten_keys(".").items())

    def budget_of_trial(self, n_steps: int) -> int | None:
        """Return the smallest memory budget that drops nothing in a trial of ``n_steps``; None if none is needed."""
        return None

    def fixed_budget(self) -> int:
        """Return the memory budget; raise ``ValueError`` if there is none, since the memory then grows."""
        if self.memory_budget is None:
            raise ValueError(
                f"memory_budget=None: must be set for a state of fixed shape, because the memory of "
                f"{type(self).__name__} grows without it"
            )
        return self.memory_budget

    def steps_to_exercise(self) -> int:
        """Return after how many steps a bounded memory has done everything that it ever does."""
        return self.memory_budget or 0

    def cache_layout(self, state: TensorDict) -> Tensor | None:
        """Return what each cache slot of the first sequence holds when the next step reads it.

        Args:
            state: the memory before that step.

        Returns:
            int64 ``[slots]`` on the CPU. A step, the next one included, is given by its number since the memory was
            emptied; a token of the summary of segment n by ``-1 - n``. None for models without such a cache.
        """
        return None

    @property
    def memory_budget(self) -> int | None:
        """The maximum number of cache entries kept, the oldest dropped first; None for all.

        A new value applies to sequences processed and states created from then on.

        Raises:
            ValueError: if the model cannot work within that budget, or has no cache to bound.
        """
        return self._memory_budget

    @memory_budget.setter
    def memory_budget(self, budget: int | None) -> None:
        if budget is not None:
            self.check_memory_budget(budget)
        self._memory_budget = budget

    def check_memory_budget(self, budget: int) -> None:
        """Raise ``ValueError`` unless the model can work within ``budget`` cache entries."""
        raise ValueError(f"memory_budget={budget}: must be None, as {type(self).__name__} has no cache to bound")

    def check_trial_length(self, n_steps: int) -> None:
        """Raise ``ValueError`` unless the settings make sense for trials of at most ``n_steps`` steps."""
        if self.segment_length is not None and self.segment_length > n_steps:
            raise ValueError(f"segment_length={self.segment_length}: must be at most {n_steps}, the steps of a rollout")

    @property
    def is_recordable(self) -> bool:
        """Whether a pass over sequences of one trial each launches the same work whatever the values of its inputs.

        Its settings must be given; see :class:`~memo_lightning.models.recorded_pass.RecordedPasses`.
        """
        return False

    def draw_few_lengths(self, n_lengths: int) -> None:
        """Draw segment lengths from at most ``n_lengths`` different ones from now on."""

    def draw_segment_length(self, generator: torch.Generator | None = None) -> int | None:
        """Return the segment length of a training pass, drawn anew if the model jitters it."""
        return self.segment_length

    def draw_pass(self, generator: torch.Generator | None = None) -> PassSettings:
        """Draw the random settings of a training pass, so that several passes can share them."""
        return {"segment_length": self.draw_segment_length(generator)}

    def acting_pass(self) -> PassSettings:
        """Return the settings that make a pass equal acting, even in ``train()`` mode."""
        return {"segment_length": self.segment_length}

    def auxiliary_loss(self) -> Tensor | None:
        """Return and clear the loss that the last ``train()``-mode ``forward`` adds to the objective.

        It is a scalar with gradient, already multiplied by its coefficient, or None if there is none.
        """
        return None

    def state_nbytes(self, state: TensorDict) -> int:
        """Return the bytes of storage that ``state`` occupies, spare capacity included."""
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.values(True, True)}
        return sum(storages.values())

    def check_state(self, state: TensorDict) -> None:
        """Raise ``ValueError`` unless the entries of ``state``, whose names are checked, have the model's sizes."""

    def check_sequences(self, x: Tensor, is_init: Tensor | None) -> None:
        """Raise ``ValueError`` unless ``x`` is finite ``[B, T, D]`` and ``is_init`` is bool ``[B, T]``."""
        if x.ndim != 3 or x.shape[-1] != self.d_model or x.shape[1] == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}: must be [B, T, D] with T >= 1 and D={self.d_model}")
        _check_flags(is_init, x.shape[:2])
        check_finite(x)

    def check_step(self, x_t: Tensor, state: TensorDict, is_init: Tensor | None) -> None:
        """Raise ``ValueError`` unless ``x_t`` is ``[B, D]``, ``is_init`` bool ``[B]`` and ``state`` valid.

        On the CPU, ``x_t`` must also be finite.
        """
        if x_t.ndim != 2 or x_t.shape[-1] != self.d_model:
            raise ValueError(f"x_t has shape {tuple(x_t.shape)}: must be [B, D] with D={self.d_model}")
        if state.batch_size != x_t.shape[:1]:
            raise ValueError(f"state has batch size {tuple(state.batch_size)}: must be ({x_t.shape[0]},) to fit x_t")
        if set(state.keys()) != set(self.state_names):
            raise ValueError(
                f"state belongs to another model: it holds {', '.join(sorted(state.keys())) or 'nothing'}, "
                f"must hold {', '.join(sorted(self.state_names)) or 'nothing'} for {type(self).__name__}"
            )
        self.check_state(state)
        _check_flags(is_init, x_t.shape[:1])
        if x_t.device.type == "cpu":  # on a GPU, the host would wait for the answer in every step
            check_finite(x_t)


def check_state_budget(state: TensorDict, budget: int | None) -> None:
    """Raise ``ValueError`` unless ``state`` was made with ``budget``, which decides where its entries lie."""
    made_with = int(state["budget"][0]) or None if len(state["budget"]) else budget
    if made_with != budget:
        raise ValueError(f"state was made with memory_budget={made_with}: the model has memory_budget={budget}")


def _check_flags(is_init: Tensor | None, shape: torch.Size) -> None:
    if is_init is not None and (is_init.shape != shape or is_init.dtype != torch.bool):
        raise ValueError(
            f"is_init has shape {tuple(is_init.shape)} and dtype {is_init.dtype}: "
            f"must have shape {tuple(shape)} and dtype torch.bool"
        )


def check_finite(x: Tensor) -> None:
    """Raise ``ValueError`` if ``x`` holds a value that is not finite."""
    if torch.compiler.is_compiling():  # true also while torch.export traces, without values
        return
    if x.is_cuda and torch.cuda.is_current_stream_capturing():  # nothing can be read while a graph is recorded
        return
    finite = x.detach().isfinite()
    if not finite.all():
        position = (~finite).nonzero()[0].tolist()
        raise ValueError(f"x holds {x[tuple(position)].item()} at index {position}: must be finite")
