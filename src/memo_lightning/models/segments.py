"""The base of all models that cut a trial into segments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Unpack

import torch
from tensordict import TensorDict
from torch import Tensor

from memo_lightning.models.transformer import TransformerSizes
from memo_lightning.models.transformer_model import TransformerModel
from memo_lightning.models.trials import Chunk, Trials

Jitter = float | Sequence[float]


class SegmentedModel(TransformerModel):
    """A model that reads trials in segments of L steps and keeps S tokens of each complete one.

    Args:
        segment_length: L, steps per segment.
        summary_length: S, summary tokens per segment.
        segment_jitter: in ``train()`` mode, each ``forward`` draws one length uniformly from the integers within
            ``segment_jitter * L`` of L (paper: 0.2). Two numbers give how much shorter and how much longer than L it
            may be: ``(0.0, 0.25)`` is never shorter. Acting and ``eval()`` always use L.
        **sizes: see :class:`TransformerModel`.

    Attributes:
        n_drawn_lengths: number of lengths to draw from, evenly spread over the range of the jitter; None for every
            integer in it.
        counter_names: entries of a state that are zero if a sequence's memory is empty; all other entries then have
            no effect.

    Raises:
        ValueError: if a setting is out of range.
    """

    segment_length: int
    counter_names: tuple[str, ...] = ("open_steps", "segments")

    def __init__(
        self, segment_length: int, summary_length: int, segment_jitter: Jitter, **sizes: Unpack[TransformerSizes]
    ) -> None:
        super().__init__(**sizes)
        if segment_length < 1:
            raise ValueError(f"segment_length={segment_length}: must be at least 1")
        self.check_summary_length(summary_length, segment_length)
        spread = _both_sides(segment_jitter)
        if len(spread) != 2 or not all(isinstance(share, int | float) and 0 <= share < 1 for share in spread):
            raise ValueError(
                f"segment_jitter={segment_jitter}: must be at least 0 and below 1, or two such numbers for how much "
                "shorter and how much longer a segment may be"
            )
        self.segment_length, self.summary_length = segment_length, summary_length
        self.segment_jitter = segment_jitter
        self.n_drawn_lengths: int | None = None

    @staticmethod
    def check_summary_length(summary_length: int, segment_length: int) -> None:
        """Raise ``ValueError`` if a summary is empty or longer than the segment that it summarises."""
        if not 1 <= summary_length <= segment_length:
            raise ValueError(
                f"summary_length={summary_length}: must be at least 1 and at most segment_length={segment_length}"
            )

    def check_memory_budget(self, budget: int) -> None:
        """Raise ``ValueError`` unless a segment and one summary fit."""
        smallest = self.segment_length + self.summary_length
        if budget < smallest:
            raise ValueError(
                f"memory_budget={budget}: must be at least {smallest}, one segment (segment_length="
                f"{self.segment_length}) and one summary (summary_length={self.summary_length})"
            )

    def budget_of_trial(self, n_steps: int) -> int | None:
        """Return the smallest memory budget that drops nothing in a trial of ``n_steps``."""
        n_segments = max(1, (n_steps - 1) // self.segment_length)  # whose summaries are read
        return self.segment_length + n_segments * self.summary_length

    def steps_to_exercise(self) -> int:
        """Return after how many steps a bounded memory has done everything that it ever does."""
        return ((self.max_summaries or 0) + 2) * self.segment_length

    @property
    def max_summaries(self) -> int | None:
        """The maximum number of segments whose summaries are kept; None for all."""
        if self.memory_budget is None:
            return None
        return (self.memory_budget - self.segment_length) // self.summary_length

    def n_fixed_summaries(self) -> int:
        """Return how many summaries a state of fixed shape has room for; raise ``ValueError`` if there is no bound."""
        if self.max_summaries is None:
            self.fixed_budget()
        assert self.max_summaries is not None
        return self.max_summaries

    def forward(
        self,
        x: Tensor,
        is_init: Tensor | None = None,
        segment_length: int | None = None,
        dropped_layers: Sequence[int] | None = None,
    ) -> Tensor:
        """Process whole sequences, segment by segment; see :meth:`SequenceModel.forward`.

        ``segment_length`` overrides the jittered length of ``train()`` mode and the fixed one of ``eval()`` mode, and
        ``dropped_layers`` the layers drawn in ``train()`` mode.
        """
        self.check_sequences(x, is_init)
        if segment_length is None:
            segment_length = self.draw_segment_length() if self.training else self.segment_length
        if segment_length < 1:
            raise ValueError(f"segment_length={segment_length}: must be at least 1")
        trials = Trials((x.shape[0], x.shape[1]), is_init)
        return trials.scatter(self.read_trials(x, trials, segment_length, self.dropped_in_pass(dropped_layers)))

    @torch.no_grad()
    def prefill(self, x: Tensor, is_init: Tensor | None = None) -> tuple[Tensor, TensorDict]:
        """Process whole sequences, one segment at a time; see :meth:`SequenceModel.prefill`."""
        self.check_sequences(x, is_init)
        trials = Trials((x.shape[0], x.shape[1]), is_init)
        state, ended = self.init_state(trials.n_trials), []
        outputs = []
        for segment in trials.chunks(self.segment_length):
            if segment.n_trials < state.batch_size[0]:
                ended.append(state[segment.n_trials :])
                state = state[: segment.n_trials]
            steps = trials.gather(x, segment)
            outputs.append((segment, self.advance(steps, state, trials.lengths_in(segment))))
        if not trials.is_plain:
            state = join_states([state, *reversed(ended)])[trials.last()]
        return trials.scatter(outputs), state

    @abstractmethod
    def advance(self, x: Tensor, state: TensorDict, n_steps: Tensor) -> Tensor:
        """Process the next ``n_steps [B]`` steps, which must not pass the end of the open segment.

        Args:
            x: inputs ``[B, t, D]``; only the first ``n_steps`` of each sequence count.
            state: the memory, updated in place.
            n_steps: int64 ``[B]`` on the CPU, from 1 to t.

        Returns:
            Outputs ``[B, t, D]``.
        """

    @torch.no_grad()
    def step(self, x_t: Tensor, state: TensorDict, is_init: Tensor | None = None) -> tuple[Tensor, TensorDict]:
        """Process one step of every sequence; see :meth:`SequenceModel.step`."""
        self.check_step(x_t, state, is_init)
        if is_init is not None:
            restarted = is_init.to(state["open_steps"].device)
            for counter in self.counter_names:
                state[counter].masked_fill_(restarted, 0)
        y = self.advance(x_t.unsqueeze(1), state, torch.ones_like(state["open_steps"]))
        return y.squeeze(1), state

    @abstractmethod
    def read_trials(
        self, x: Tensor, trials: Trials, segment_length: int, dropped: Sequence[int]
    ) -> list[tuple[Chunk, Tensor]]:
        """Return the outputs of every segment of the ``trials`` in ``x [B, T, D]``, without the ``dropped`` layers."""

    @property
    def is_recordable(self) -> bool:
        """See :attr:`SequenceModel.is_recordable`; LayerDrop draws other layers in almost every pass."""
        return not self.transformer.layer_drop

    def draw_few_lengths(self, n_lengths: int) -> None:
        """See :meth:`SequenceModel.draw_few_lengths`."""
        self.n_drawn_lengths = n_lengths

    def draw_segment_length(self, generator: torch.Generator | None = None) -> int:
        """Draw a jittered segment length, uniformly over integers; see ``segment_jitter`` and ``n_drawn_lengths``."""
        shorter, longer = (int(share * self.segment_length) for share in _both_sides(self.segment_jitter))
        low, high = self.segment_length - shorter, self.segment_length + longer
        if self.n_drawn_lengths is None or self.n_drawn_lengths > high - low:
            return int(torch.randint(low, high + 1, (), generator=generator))
        number = int(torch.randint(self.n_drawn_lengths, (), generator=generator))
        return low + round(number * (high - low) / (self.n_drawn_lengths - 1))


def _both_sides(jitter: Jitter) -> tuple[float, ...]:
    """Return how much shorter and how much longer segments may be, as fractions of L."""
    return (jitter, jitter) if isinstance(jitter, int | float) else tuple(jitter)


def join_states(states: list[TensorDict]) -> TensorDict:
    """Concatenate ``states`` along the batch; their caches may have grown to different sizes."""
    if len(states) == 1:
        return states[0]
    n_rows = sum(len(state) for state in states)
    joined = TensorDict({}, [n_rows])
    for name in dict.fromkeys(name for state in states for name in state.keys(True, True)):
        held = [state.get(name, None) for state in states]
        present = [tensor for tensor in held if tensor is not None]
        shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in present), strict=True)]
        rows = present[0].new_zeros(n_rows, *shape)
        for tensor, of_state in zip(held, rows.split([len(state) for state in states]), strict=True):
            if tensor is not None:
                of_state[(slice(None), *map(slice, tensor.shape[1:]))] = tensor
        joined[name] = rows
    return joined
