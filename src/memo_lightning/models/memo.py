"""Memo: a transformer that writes summary tokens (arXiv 2510.19732, section 3)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar, Unpack

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from memo_lightning.models.attention import LayerKeysValues
from memo_lightning.models.fixed_state import FixedCache, FixedState, LayerTensors, begin_where, run_if_any
from memo_lightning.models.kv_cache import KVCache
from memo_lightning.models.segments import Jitter, SegmentedModel
from memo_lightning.models.summary_memory import SummaryContext, SummaryMemory, SummaryView
from memo_lightning.models.transformer import TransformerSizes
from memo_lightning.models.trials import Chunk, Trials

Count = TypeVar("Count", int, Tensor)


class MemoTransformer(SegmentedModel):
    """A transformer whose memory of past segments is a few learned summary tokens per segment.

    A trial is cut into segments of L steps. After each complete segment, S learned queries attend to it and to all
    older summaries; their outputs after the final norm are the segment's summary. Later steps attend to all summaries
    and to their own segment only. Summaries enter the transformer as input embeddings, accumulate, and are never
    rewritten; gradients flow through all of them.

    A summary's keys and values depend only on older summaries, and its position never changes. They are therefore
    computed once, with gradient, and reused by all later segments. The official implementation encodes all summaries
    again with every segment. The results are the same, but the cost grows linearly with the number of segments instead
    of quadratically.

    Args:
        segment_length: L, steps per segment.
        summary_length: S, summary tokens per segment; at most L.
        segment_jitter: relative spread of the segment length in training; see :class:`SegmentedModel`.
        memory_budget: maximum number of cache entries kept between steps, the open segment included. At most
            ``(memory_budget - L) // S`` summaries are kept; the oldest are dropped whole, and positions are not
            re-based. None for all.
        max_summary_age: number of segments after which a summary gets no older: in later segments its distance stays
            the one it had then. If summaries of that age occur in training, acting for longer than in training then
            leads to no positions that training has not seen. None for no limit.
        gradient_segments: number of segments after its own from which gradient flows into a summary; later segments
            see it detached (2 gives the AutoCompressor baseline, arXiv 2305.14788). None for all segments.
        checkpoint_segments: save only the inputs of every segment for the backward pass and recompute the rest there:
            1.5 times as long, but the memory for activations grows with L instead of T.
        **sizes: see :class:`TransformerModel`.

    Raises:
        ValueError: if the sizes do not fit together.
    """

    state_names = ("keys", "values", "summary", "length", "open_steps", "segments", "waiting", "model_id")
    counter_names = ("length", "open_steps", "segments", "waiting")
    fixed_state_meanings: ClassVar[Mapping[str, str]] = {
        "keys": "keys of the newest summaries, the open segment and a summary being written, in one layer, "
        "[heads, slots, head width]",
        "values": "values of the newest summaries, the open segment and a summary being written, in one layer, "
        "[heads, slots, head width]",
        "open_steps": "steps in the open segment",
        "segments": "complete segments since the memory was emptied",
    }

    def __init__(
        self,
        segment_length: int,
        summary_length: int,
        segment_jitter: Jitter = 0.2,
        memory_budget: int | None = None,
        max_summary_age: int | None = None,
        gradient_segments: int | None = None,
        checkpoint_segments: bool = False,
        **sizes: Unpack[TransformerSizes],
    ) -> None:
        super().__init__(segment_length, summary_length, segment_jitter, **sizes)
        if gradient_segments is not None:
            self.check_gradient_segments(gradient_segments)
        if max_summary_age is not None:
            self.check_max_summary_age(max_summary_age, gradient_segments)
        self.max_summary_age = max_summary_age
        self.gradient_segments, self.checkpoint_segments = gradient_segments, checkpoint_segments
        self.summary_queries = nn.Parameter(0.02 * torch.randn(summary_length, self.d_model))
        self.memory_budget = memory_budget

    def check_gradient_segments(self, gradient_segments: int) -> None:
        """Raise ``ValueError`` unless the model can cut gradients after ``gradient_segments`` segments."""
        if gradient_segments < 0:
            raise ValueError(f"gradient_segments={gradient_segments}: must be at least 0, or None")

    def check_max_summary_age(self, max_summary_age: int, gradient_segments: int | None) -> None:
        """Raise ``ValueError`` unless summaries can be kept from getting older than ``max_summary_age`` segments."""
        if max_summary_age < 1:
            raise ValueError(f"max_summary_age={max_summary_age}: must be at least 1, or None")
        if gradient_segments is not None:
            # Every pass encodes some older summaries again, and these would then see still older ones from nearer.
            raise ValueError(
                f"max_summary_age={max_summary_age} and gradient_segments={gradient_segments}: a model can have one or "
                "the other; set max_summary_age=null"
            )

    @property
    def is_recordable(self) -> bool:
        """See :attr:`SegmentedModel.is_recordable`; checkpointing reads the state of random generators."""
        return super().is_recordable and not self.checkpoint_segments

    def check_state(self, state: TensorDict) -> None:
        """Raise ``ValueError`` unless ``state`` was made by a model of the same kind and sizes."""
        KVCache.check(state, self.transformer)
        if not len(state["model_id"]):
            return
        held, expected = state["model_id"][0].tolist(), self._model_id()
        if held[:2] != expected[:2]:
            raise ValueError(
                f"state belongs to another model: its (segment_length, summary_length) are {tuple(held[:2])}, "
                f"must be {tuple(expected[:2])}"
            )
        if held != expected:
            kind = f"{type(self).__name__} with gradient_segments={self.gradient_segments}"
            if self.max_summary_age is not None:
                kind += f" and max_summary_age={self.max_summary_age}"
            raise ValueError(f"state belongs to another model: it must come from a {kind}")

    def _model_id(self) -> list[int]:
        """Return the numbers that identify the model a state was made by: sizes, other settings and class."""
        # One number, negative for the age, tells both limits: a model has at most one of them.
        limit = -1 - (self.max_summary_age or 0) if self.gradient_segments is None else self.gradient_segments
        kind = zlib.crc32(type(self).__name__.encode())
        return [self.segment_length, self.summary_length, limit, kind]

    def first_position(self, n_segments: Count) -> Count:
        """Return the position of the first step after ``n_segments`` segments; summaries end just before it."""
        if self.max_summary_age is not None:
            oldest = self.max_summary_age
            n_segments = n_segments.clamp(max=oldest) if isinstance(n_segments, Tensor) else min(n_segments, oldest)
        return n_segments * self.summary_length

    def read_trials(
        self, x: Tensor, trials: Trials, segment_length: int, dropped: Sequence[int]
    ) -> list[tuple[Chunk, Tensor]]:
        """Return the outputs of every segment; see :meth:`SegmentedModel.read_trials`."""
        memory = SummaryMemory(trials.n_chunks(segment_length) * self.summary_length)
        recent: list[Tensor] = []  # the newest summaries, whose keys and values are not final yet
        n_recent = self._n_recent()
        outputs = []
        for n_segments, segment in enumerate(trials.chunks(segment_length)):
            memory.keep_rows(segment.n_trials)
            recent = [summary[: segment.n_trials] for summary in recent]
            if self.max_summaries is not None:
                memory.keep_newest((self.max_summaries - len(recent)) * self.summary_length)
            n_final = max(0, len(recent) - n_recent)
            if n_final and self.gradient_segments is not None:
                recent[0] = recent[0].detach()

            # The block is [recent summaries | observations | queries]. Older summaries are present as keys and
            # values; this same pass turns the oldest of the recent ones into keys and values.
            tokens = [*recent, trials.gather(x, segment)]
            if not segment.is_last:
                tokens.append(self.summary_queries.to(x.dtype).expand(segment.n_trials, -1, -1))
            n_before = len(recent) * self.summary_length
            y, final = self.run_block(
                torch.cat(tokens, dim=1),
                self.first_position(n_segments) - n_before,
                self.view_summaries(memory, n_segments),
                slice(n_final * self.summary_length),
                dropped,
            )
            outputs.append((segment, y[:, n_before : n_before + segment.length]))
            if n_final:
                memory.append(final)
            recent = [*recent[n_final:], y[:, n_before + segment.length :]]
        return outputs

    def view_summaries(self, memory: SummaryMemory, n_segments: int) -> SummaryView:
        """Return the summaries in ``memory``, which is all but the newest, as seen after ``n_segments`` segments.

        With ``max_summary_age`` they are copies, moved from where they were encoded to earlier positions.
        """
        view, oldest = memory.view(), self.max_summary_age
        if oldest is None or n_segments <= oldest or not view.layers:
            return view
        held = view.layers[0][0]
        ages = torch.arange(held.shape[2] // self.summary_length, 0, -1, device=held.device) + 1
        then = (n_segments - ages + 1).clamp(max=oldest) - 1
        now = (oldest - ages).clamp(min=0)
        shifts = ((now - then) * self.summary_length).repeat_interleave(self.summary_length)
        return SummaryView([(self.transformer.rotary.move(keys, shifts), values) for keys, values in view.layers])

    def run_block(
        self, block: Tensor, position: int, summaries: SummaryView, kept: slice, dropped: Sequence[int] = ()
    ) -> tuple[Tensor, LayerKeysValues]:
        """Run a ``block [b, t, D]`` of tokens that see the ``summaries`` and, causally, each other.

        Returns:
            The outputs ``[b, t, D]``, and the keys and values of the ``kept`` tokens in the layers that are not
            ``dropped``.
        """

        def run(block: Tensor, summaries: SummaryView) -> tuple[Tensor, LayerKeysValues]:
            context = SummaryContext(summaries, self.transformer.sinks(dropped), kept)
            positions = torch.arange(position, position + block.shape[1], device=block.device)
            return self.transformer(block, positions, context, dropped), context.kept

        if self.checkpoint_segments and torch.is_grad_enabled():
            return checkpoint(run, block, summaries, use_reentrant=False)
        return run(block, summaries)

    def check_trial_length(self, n_steps: int) -> None:
        """Raise ``ValueError`` unless the settings can be trained with, in trials of at most ``n_steps`` steps."""
        super().check_trial_length(n_steps)
        if self.memory_budget is not None and self.gradient_segments:
            raise ValueError(
                f"memory_budget={self.memory_budget}: must be null in training with gradient_segments="
                f"{self.gradient_segments}; bound the memory in memo evaluate"
            )

    def _n_recent(self) -> int:
        """Return how many summaries every segment encodes again because they will be detached later."""
        if self.gradient_segments is None or not torch.is_grad_enabled():
            return 0
        if self.memory_budget is not None and self.gradient_segments > 0:
            raise ValueError(
                f"gradient_segments={self.gradient_segments} and memory_budget={self.memory_budget}: a "
                "forward pass with gradient can have one or the other; set memory_budget=None"
            )
        return self.gradient_segments

    def init_state(self, batch_size: int) -> TensorDict:
        """Return an empty memory: keys and values per layer, the newest summary, counters, and the id of the model.

        The counters are the tokens held, the steps in the open segment, the complete segments so far, and whether the
        newest summary still waits for its second pass, which fills the last S of the tokens held.
        """
        buffers = KVCache.allocate(self.transformer, batch_size, self.segment_length)
        # Counters stay on the CPU: they decide what is run next, and reading them must not wait for a GPU.
        counters = {name: torch.zeros(batch_size, dtype=torch.int64) for name in self.counter_names}
        summary = self.transformer.norm.weight.new_zeros(batch_size, self.summary_length, self.d_model)
        model_id = torch.tensor([self._model_id()]).repeat(batch_size, 1)
        return TensorDict({**buffers, **counters, "summary": summary, "model_id": model_id}, [batch_size])

    def cache_layout(self, state: TensorDict) -> Tensor:
        """Return which summary or step each slot holds; see :meth:`SequenceModel.cache_layout`."""
        length, open_steps, segments = (int(state[name][0]) for name in ("length", "open_steps", "segments"))
        n_kept = (length - open_steps) // self.summary_length
        kept = torch.arange(segments - n_kept, segments).repeat_interleave(self.summary_length)
        return torch.cat([-1 - kept, segments * self.segment_length + torch.arange(open_steps + 1)])

    def advance(self, x: Tensor, state: TensorDict, n_steps: Tensor) -> Tensor:
        """Process the next steps; see :meth:`SegmentedModel.advance`.

        Sequences that complete their segment then write its summary, whose second pass is left to the next call.
        """
        self.encode_waiting(state)
        length, open_steps, segments = state["length"], state["open_steps"], state["segments"]
        at_boundary = open_steps + n_steps == self.segment_length
        if at_boundary.all():
            return self.complete(x, state, torch.arange(len(x)))
        cache = KVCache(state, self.transformer, growth=self.summary_length)
        y = cache.run(x, self.first_position(segments) + open_steps, length)
        length += n_steps
        open_steps += n_steps
        if at_boundary.any():
            rows = at_boundary.nonzero().squeeze(1)
            self.complete(x[: len(rows), :0], state, rows)
        return y

    def complete(self, x: Tensor, state: TensorDict, rows: Tensor) -> Tensor:
        """Replace the open segment of some sequences by its summary.

        The last steps and the summary queries run in one pass, as in training. Neither is stored.

        Args:
            x: inputs ``[b, t, D]``, the steps that the segments still lack; t may be 0.
            state: the memory, updated in place.
            rows: int64 ``[b]`` on the CPU, the sequences' indices, ascending.

        Returns:
            Outputs ``[b, t, D]``.
        """
        length, open_steps, segments = (state[name][rows] for name in ("length", "open_steps", "segments"))
        cache = KVCache(state, self.transformer, growth=self.summary_length)
        queries = self.summary_queries.to(x.dtype).expand(len(rows), -1, -1)
        position, block = self.first_position(segments) + open_steps, torch.cat([x, queries], dim=1)
        y, own = cache.read(block, position, length, rows)

        starts = self.drop_oldest(cache, rows, length - open_steps)
        state["segments"][rows] += 1
        self.move_back(cache, rows, state["segments"][rows], starts)
        state["length"][rows] = starts + self.summary_length
        state["open_steps"][rows] = 0
        of_queries = [(keys[:, :, x.shape[1] :], values[:, :, x.shape[1] :]) for keys, values in own]
        self.remember(state, rows, y[:, x.shape[1] :], of_queries)
        return y[:, : x.shape[1]]

    def remember(self, state: TensorDict, rows: Tensor, summary: Tensor, of_queries: LayerKeysValues) -> None:
        """Keep what the summary queries have read, for the last S slots that a sequence's ``length`` counts.

        Args:
            state: the memory, updated in place.
            rows: int64 ``[b]`` on the CPU, the indices of the sequences that have completed a segment.
            summary: ``[b, S, D]``, the outputs of the queries.
            of_queries: the keys and values ``[b, H, S, d]`` that the queries had.
        """
        # The next step is the first to read the summary. It runs the second pass, so that no step runs both passes.
        state["summary"][rows.to(summary.device, non_blocking=True)] = summary
        state["waiting"][rows] = 1

    def encode_waiting(self, state: TensorDict) -> None:
        """Run the second pass over the summaries that are waiting for it."""
        rows = state["waiting"].nonzero().squeeze(1)
        if not len(rows):
            return
        cache = KVCache(state, self.transformer, growth=self.summary_length)
        summary = state["summary"][rows.to(state["summary"].device, non_blocking=True)]
        position = self.first_position(state["segments"][rows]) - self.summary_length
        starts = state["length"][rows] - self.summary_length
        cache.store(cache.keys_values(summary, position, starts, rows), starts, rows)
        state["waiting"][rows] = 0

    def drop_oldest(self, cache: KVCache, rows: Tensor, held: Tensor) -> Tensor:
        """Make room in the budget for one more summary of ``rows [b]``, whose summaries fill ``held [b]`` slots.

        Returns:
            int64 ``[b]``, the number of slots that summaries fill now.
        """
        if self.max_summaries is None:
            return held
        kept = held.clamp(max=(self.max_summaries - 1) * self.summary_length)
        full, n = kept < held, int(kept.max())
        if n and full.any():
            cache.bring_forward(rows[full], (held - kept)[full], n)
        return kept

    def move_back(self, cache: KVCache, rows: Tensor, segments: Tensor, held: Tensor) -> None:
        """Move summaries that are younger than ``max_summary_age`` to where they are after one more segment.

        Those that are older stay where they are, as does the first step of every later segment.

        Args:
            cache: the memory, updated in place.
            rows: int64 ``[b]`` on the CPU, the indices of the sequences.
            segments: int64 ``[b]`` on the CPU, their complete segments, the new one included.
            held: int64 ``[b]`` on the CPU, the slots that older summaries fill.
        """
        if self.max_summary_age is None:
            return
        late = segments > self.max_summary_age
        limit = self.max_summary_age if self.max_summaries is None else min(self.max_summary_age, self.max_summaries)
        n_slots = (limit - 1) * self.summary_length
        if n_slots and late.any():
            cache.shift_positions(rows[late], held[late] - n_slots, n_slots, -self.summary_length)

    def init_fixed_state(self, batch_size: int) -> FixedState:
        """Return an empty memory of fixed shape; see :meth:`SequenceModel.init_fixed_state`.

        Its slots hold, in this order, the kept summaries as a ring, the open segment, and a summary being written.
        """
        n_slots = self.n_fixed_summaries() * self.summary_length + self.segment_length + self.summary_length
        cache = FixedCache.allocate(self.transformer, batch_size, n_slots)
        open_steps = cache["keys.0"].new_zeros(batch_size, dtype=torch.int64)
        return {**cache, "open_steps": open_steps, "segments": torch.zeros_like(open_steps)}

    def steps_to_exercise(self) -> int:
        """Return after how many steps a bounded memory has done everything that it ever does."""
        return super().steps_to_exercise() + (self.max_summary_age or 0) * self.segment_length

    def fixed_step(
        self, x_t: Tensor, state: FixedState, is_init: Tensor, completes: bool | None = None
    ) -> tuple[Tensor, FixedState]:
        """Process one step of every sequence; see :meth:`SequenceModel.fixed_step`.

        Summaries are written only if any sequence completes its segment. The other sequences then write into slots that
        are never read.
        """
        n_summaries, cache = self.n_fixed_summaries(), FixedCache.of(state, self.transformer)
        open_steps, segments = begin_where(is_init, state["open_steps"], state["segments"])
        first = n_summaries * self.summary_length  # slot of the open segment
        slot = (first + open_steps)[:, None]  # (B, 1)
        seen = self._held(cache, segments) | self._between(cache, first, slot)
        y = cache.run(x_t.unsqueeze(1), self.first_position(segments) + open_steps, slot, seen)

        at_boundary = open_steps + 1 == self.segment_length
        operands = (cache.keys, cache.values, segments)
        new_keys, new_values = run_if_any(at_boundary, completes, self._fixed_summary, self._no_summary, operands)
        if self.max_summary_age is not None:
            cache.shift_positions(self._fixed_shifts(cache, segments) * at_boundary[:, None])
        scratch = first + self.segment_length
        target = torch.where(at_boundary, segments % n_summaries * self.summary_length, scratch)
        cache.store(new_keys, new_values, target[:, None] + torch.arange(self.summary_length, device=target.device))
        open_steps = (open_steps + 1).masked_fill(at_boundary, 0)
        return y.squeeze(1), {**cache.as_state(), "open_steps": open_steps, "segments": segments + at_boundary}

    def _fixed_summary(
        self, keys: LayerTensors, values: LayerTensors, segments: Tensor
    ) -> tuple[LayerTensors, LayerTensors]:
        """Return the keys and values ``[B, H, S, d]``, per layer, of summaries of all open segments.

        Args:
            keys: the keys of all slots, ``[B, H, slots, d]`` per layer.
            values: likewise.
            segments: int64 ``[B]``, complete segments before this one.
        """
        cache = FixedCache(keys, values, self.transformer)
        summary, scratch = self._read_segment(cache, segments)
        if self.max_summary_age is not None:
            cache.shift_positions(self._fixed_shifts(cache, segments))
        # The oldest summary, whose place this one takes, is dropped first.
        replaced = (segments % self.n_fixed_summaries())[:, None, None]
        kept = self._held(cache, segments) & (cache.slots // self.summary_length != replaced)
        seen = kept | self._between(cache, scratch[:, :1], scratch)
        cache.run(summary, self.first_position(segments + 1) - self.summary_length, scratch, seen)
        return cache.newest(self.summary_length)

    def _fixed_shifts(self, cache: FixedCache, segments: Tensor) -> Tensor:
        """Return by how much each slot moves after ``segments [B]`` segments and one more; see :meth:`move_back`.

        Returns:
            int64 ``[B, slots]``.
        """
        assert self.max_summary_age is not None
        place, n_summaries = cache.slots // self.summary_length, self.n_fixed_summaries()
        ages = 1 + torch.remainder(segments[:, None] - 1 - place, n_summaries)  # before the new segment
        moves = (ages < self.max_summary_age) & (place < n_summaries) & (segments >= self.max_summary_age)[:, None]
        return moves * -self.summary_length

    def _read_segment(self, cache: FixedCache, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Run the summary queries over the open segment, which is complete.

        Returns:
            Their outputs ``[B, S, D]``, and the slots of their keys and values, int64 ``[B, S]``.
        """
        first = self.n_fixed_summaries() * self.summary_length
        scratch = first + self.segment_length + torch.arange(self.summary_length, device=segments.device)
        scratch = scratch.expand(len(segments), -1)
        seen = self._held(cache, segments) | self._between(cache, first, scratch)
        queries = self.summary_queries.expand(len(segments), -1, -1)
        return cache.run(queries, self.first_position(segments) + self.segment_length, scratch, seen), scratch

    def _no_summary(
        self, keys: LayerTensors, values: LayerTensors, segments: Tensor
    ) -> tuple[LayerTensors, LayerTensors]:
        """Return zeros with the shapes of :meth:`_fixed_summary`."""
        # No variable may have the name of one in the other branch: Dynamo (torch 2.13) would confuse the two.
        no_keys, no_values = (
            [torch.zeros_like(operand[:, :, : self.summary_length].contiguous()) for operand in operands]
            for operands in (keys, values)
        )
        return no_keys, no_values

    def _held(self, cache: FixedCache, segments: Tensor) -> Tensor:
        """Return bool ``[B, 1, slots]``, true for slots that hold summaries after ``segments [B]`` segments."""
        n_held = segments.clamp(max=self.n_fixed_summaries()) * self.summary_length
        return cache.slots < n_held[:, None, None]

    @staticmethod
    def _between(cache: FixedCache, first: int | Tensor, last: Tensor) -> Tensor:
        """Return bool ``[B, t, slots]``, true from slot ``first`` (a number or ``[B, 1]``) to ``last [B, t]``."""
        first = first if isinstance(first, int) else first.unsqueeze(-1)
        return (cache.slots >= first) & (cache.slots <= last.unsqueeze(-1))
