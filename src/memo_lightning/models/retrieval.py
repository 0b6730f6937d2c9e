"""Retrieval of past segments by their summaries: another reading of "a memory of summary tokens"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor, nn

from memo_lightning.models.base import check_state_budget
from memo_lightning.models.fixed_state import FixedCache, FixedState, begin_where, run_if_any
from memo_lightning.models.kv_cache import KVCache
from memo_lightning.models.projection import projection
from memo_lightning.models.rms_norm import RMSNorm
from memo_lightning.models.segment_decoder import SegmentDecoder
from memo_lightning.models.segments import Jitter, SegmentedModel
from memo_lightning.models.sequence_context import SequenceContext
from memo_lightning.models.transformer import Transformer, TransformerSizes, check_sizes
from memo_lightning.models.trials import Chunk, Trials


class RetrievalMemory(SegmentedModel):
    """A transformer over the open segment that looks up past segments in a key-value store.

    A separate transformer layer turns the encoded steps of a complete segment into S summary tokens. The store's keys
    are these tokens; the value of each is a projection of the segment's steps, averaged with the token's attention to
    them. Every step scores all keys by attention and reads the ``top_k`` best. The memory loss trains summaries from
    which a small decoder can predict the encoded segment.

    This model is not from Memo's paper.

    Args:
        segment_length: L, steps per segment.
        summary_length: S, summary tokens per segment; at most L.
        top_k: number of store entries that a step reads.
        memory_loss_coef: coefficient of the memory loss, the mean squared error of the decoder.
        segment_jitter: relative spread of the segment length in training; see :class:`SegmentedModel`.
        memory_budget: maximum number of entries kept, the open segment included. At most
            ``(memory_budget - L) // S`` summaries are kept; the oldest are dropped whole. None for all.
        **sizes: sizes of the transformer over the open segment; see :class:`TransformerModel`.

    Raises:
        ValueError: if the sizes do not fit together.
    """

    state_names = (
        "keys",
        "values",
        "encoded",
        "store_keys",
        "store_values",
        "open_steps",
        "segments",
        "budget",
    )
    fixed_state_meanings: ClassVar[Mapping[str, str]] = {
        "keys": "keys of the open segment in one layer, [heads, steps, head width]",
        "values": "values of the open segment in one layer, [heads, steps, head width]",
        "encoded": "encoded steps of the open segment, [steps, width]",
        "store_keys": "keys of the store, of the newest segments and of one being written, [slots, width]",
        "store_values": "values of the store, of the newest segments and of one being written, [slots, width]",
        "open_steps": "steps in the open segment",
        "segments": "complete segments since the memory was emptied",
    }

    def __init__(
        self,
        segment_length: int,
        summary_length: int,
        top_k: int = 8,
        memory_loss_coef: float = 0.1,
        segment_jitter: Jitter = 0.2,
        memory_budget: int | None = None,
        **sizes: Unpack[TransformerSizes],
    ) -> None:
        super().__init__(segment_length, summary_length, segment_jitter, **sizes)
        check_sizes(top_k=top_k)
        if memory_loss_coef < 0:
            raise ValueError(f"memory_loss_coef={memory_loss_coef}: must be at least 0")
        self.top_k, self.memory_loss_coef = top_k, memory_loss_coef
        d_model, d_ff, norm_eps = sizes["d_model"], sizes["d_ff"], sizes.get("norm_eps", 1e-6)
        self.summary_queries = nn.Parameter(0.02 * torch.randn(summary_length, d_model))
        one_layer: TransformerSizes = {**sizes, "n_layers": 1, "sink_kv": False, "layer_drop": 0.0}
        self.summary_layer = Transformer(**one_layer)
        self.store_value = projection(d_model, d_model)
        self.query = projection(d_model, d_model)
        self.out = projection(d_model, d_model)
        self.norm = RMSNorm(d_model, eps=norm_eps)
        self.decoder = SegmentDecoder(d_model, d_ff, norm_eps)
        self._memory_loss: Tensor | None = None
        self.memory_budget = memory_budget

    def check_memory_budget(self, budget: int) -> None:
        """Raise ``ValueError`` unless a segment and ``top_k`` summary tokens fit."""
        super().check_memory_budget(budget)
        room = (budget - self.segment_length) // self.summary_length * self.summary_length
        if self.top_k > room:
            raise ValueError(
                f"top_k={self.top_k}: must be at most {room}, the summary tokens that fit in "
                f"memory_budget={budget} next to a segment (segment_length={self.segment_length})"
            )

    def check_trial_length(self, n_steps: int) -> None:
        """Raise ``ValueError`` unless a trial of ``n_steps`` fills at least ``top_k`` entries of the store."""
        super().check_trial_length(n_steps)
        entries = n_steps // self.segment_length * self.summary_length
        if self.top_k > entries:
            raise ValueError(
                f"top_k={self.top_k}: must be at most {entries}, the summary tokens of {n_steps} steps "
                f"(segment_length={self.segment_length}, summary_length={self.summary_length})"
            )

    def check_state(self, state: TensorDict) -> None:
        """Raise ``ValueError`` unless ``state`` has the model's sizes and budget."""
        KVCache.check(state, self.transformer)
        held, expected = state["encoded"].shape[1], self.segment_length
        if held != expected:
            raise ValueError(f"state belongs to another model: its segments have {held} steps, must be {expected}")
        check_state_budget(state, self.memory_budget)

    @property
    def is_recordable(self) -> bool:
        """False: a pass leaves its memory loss behind."""
        return False

    def auxiliary_loss(self) -> Tensor | None:
        """Return and clear the memory loss of the last ``train()``-mode ``forward``, times its coefficient."""
        loss, self._memory_loss = self._memory_loss, None
        return loss

    def read_trials(
        self, x: Tensor, trials: Trials, segment_length: int, dropped: Sequence[int]
    ) -> list[tuple[Chunk, Tensor]]:
        """Return the outputs of every segment; see :meth:`SegmentedModel.read_trials`."""
        outputs: list[tuple[Chunk, Tensor]] = []
        store: list[tuple[Tensor, Tensor]] = []
        encoded: Tensor | None = None
        errors = []
        for segment in trials.chunks(segment_length):
            rows = segment.n_trials
            if encoded is not None:  # the previous segment, for the trials that continue and so have completed it
                encoded = encoded[:rows]
                store = [(keys[:rows], values[:rows]) for keys, values in store]
                store.append(self._summarise(encoded))
                if self.max_summaries is not None:
                    store = store[-self.max_summaries :]
                if self.training:
                    prediction = self.decoder(store[-1][0], segment_length)
                    errors.append(F.mse_loss(prediction, encoded.detach().to(prediction.dtype)))
            observations = trials.gather(x, segment)
            positions = torch.arange(segment.length, device=x.device)
            context = SequenceContext(self.transformer.sinks(dropped))
            encoded = self.transformer(observations, positions, context, dropped)
            read = None
            if store:
                keys, values = (torch.cat(parts, dim=1) for parts in zip(*store, strict=True))
                read = self._retrieve(encoded, keys, values)
            outputs.append((segment, self._combine(encoded, read)))
        self._memory_loss = self.memory_loss_coef * torch.stack(errors).mean() if errors else None
        return outputs

    def init_state(self, batch_size: int) -> TensorDict:
        """Return an empty memory: the open segment's keys, values and encoded steps, the store, counters and budget."""
        weight = self.norm.weight
        buffers = KVCache.allocate(self.transformer, batch_size, self.segment_length)
        buffers["encoded"] = weight.new_zeros(batch_size, self.segment_length, self.d_model)
        for name in ("store_keys", "store_values"):
            buffers[name] = weight.new_zeros(batch_size, 0, self.d_model)
        # Counters stay on the CPU: they decide what is run next, and reading them must not wait for a GPU.
        open_steps = torch.zeros(batch_size, dtype=torch.int64)
        counters = {"open_steps": open_steps, "segments": torch.zeros_like(open_steps)}
        budget = torch.full_like(open_steps, self.memory_budget or 0)
        return TensorDict({**buffers, **counters, "budget": budget}, [batch_size])

    def cache_layout(self, state: TensorDict) -> Tensor:
        """Return the steps of the open segment; see :meth:`SequenceModel.cache_layout`."""
        return int(state["segments"][0]) * self.segment_length + torch.arange(int(state["open_steps"][0]) + 1)

    def store_layout(self, state: TensorDict) -> Tensor:
        """Return what each slot of the first sequence's store holds; see :meth:`SequenceModel.cache_layout`."""
        segments = int(state["segments"][0])
        n_kept = segments if self.max_summaries is None else min(segments, self.max_summaries)
        slots = torch.arange(n_kept)
        if n_kept:  # a ring buffer once it is full
            slots = slots + (segments - 1 - slots) // n_kept * n_kept
        return -1 - slots.repeat_interleave(self.summary_length)

    def advance(self, x: Tensor, state: TensorDict, n_steps: Tensor) -> Tensor:
        """Process the next steps; see :meth:`SegmentedModel.advance`."""
        open_steps, segments = state["open_steps"], state["segments"]
        encoded = KVCache(state, self.transformer, growth=1).run(x, open_steps, open_steps)
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        slots = open_steps.to(x.device, non_blocking=True)[:, None] + torch.arange(x.shape[1], device=x.device)
        state["encoded"][rows, slots] = encoded.to(state["encoded"].dtype)

        held = segments if self.max_summaries is None else segments.clamp(max=self.max_summaries)
        held = held * self.summary_length
        n_seen, read = int(held.max()), None
        if n_seen:
            keys, values = state["store_keys"][:, :n_seen], state["store_values"][:, :n_seen]
            held = held.to(x.device, non_blocking=True)
            empty = torch.arange(n_seen, device=x.device) >= held[:, None, None]  # (B, 1, n)
            read = self._retrieve(encoded, keys, values, empty)
        y = self._combine(encoded, read)

        open_steps += n_steps
        at_boundary = open_steps == self.segment_length
        if at_boundary.any():
            self._store_segments(state, at_boundary.nonzero().squeeze(1))
        return y

    def _store_segments(self, state: TensorDict, rows: Tensor) -> None:
        """Put the complete segments of ``rows [b]`` into the store, replacing the oldest ones if it is full."""
        number = state["segments"][rows]
        if self.max_summaries is not None:
            number = number % self.max_summaries
        slots = number[:, None] * self.summary_length + torch.arange(self.summary_length)
        device = state["encoded"].device
        missing = int(slots.max()) + 1 - state["store_keys"].shape[1]
        index = rows.to(device, non_blocking=True)
        new = self._summarise(state["encoded"][index])
        for name, entries in zip(("store_keys", "store_values"), new, strict=True):
            if missing > 0:
                state[name] = F.pad(state[name], (0, 0, 0, missing))
            state[name][index[:, None], slots.to(device, non_blocking=True)] = entries.to(state[name].dtype)
        state["segments"][rows] += 1
        state["open_steps"][rows] = 0

    def init_fixed_state(self, batch_size: int) -> FixedState:
        """Return an empty memory of fixed shape; see :meth:`SequenceModel.init_fixed_state`.

        The store has S slots more than the budget allows, for sequences that have nothing to store when others do.
        """
        n_summaries = self.n_fixed_summaries()
        cache = FixedCache.allocate(self.transformer, batch_size, self.segment_length)
        encoded = self.norm.weight.new_zeros(batch_size, self.segment_length, self.d_model)
        store = encoded.new_zeros(batch_size, (n_summaries + 1) * self.summary_length, self.d_model)
        open_steps = encoded.new_zeros(batch_size, dtype=torch.int64)
        counters = {"open_steps": open_steps, "segments": torch.zeros_like(open_steps)}
        return {**cache, "encoded": encoded, "store_keys": store, "store_values": store.clone(), **counters}

    def fixed_step(
        self, x_t: Tensor, state: FixedState, is_init: Tensor, completes: bool | None = None
    ) -> tuple[Tensor, FixedState]:
        """Process one step of every sequence; see :meth:`SequenceModel.fixed_step`."""
        n_summaries, cache = self.n_fixed_summaries(), FixedCache.of(state, self.transformer)
        open_steps, segments = begin_where(is_init, state["open_steps"], state["segments"])
        slot = open_steps[:, None]  # (B, 1)
        y = cache.run(x_t.unsqueeze(1), open_steps, slot, cache.slots <= slot.unsqueeze(-1))
        encoded = state["encoded"].scatter(1, slot.unsqueeze(-1).expand_as(y), y)

        keys, values = state["store_keys"], state["store_values"]
        n_held = segments.clamp(max=n_summaries) * self.summary_length
        empty = torch.arange(keys.shape[1], device=keys.device) >= n_held[:, None, None]  # (B, 1, n)
        y = self._combine(y, self._retrieve(y, keys, values, empty))

        at_boundary = open_steps + 1 == self.segment_length
        summary = run_if_any(at_boundary, completes, self._summarise, self._no_summary, (encoded,))
        target = torch.where(at_boundary, segments % n_summaries, n_summaries) * self.summary_length
        slots = target[:, None] + torch.arange(self.summary_length, device=target.device)
        index = slots.unsqueeze(-1).expand_as(summary[0])
        keys, values = (part.scatter(1, index, new) for part, new in zip((keys, values), summary, strict=True))
        counters = {"open_steps": (open_steps + 1).masked_fill(at_boundary, 0), "segments": segments + at_boundary}
        return y.squeeze(1), {
            **cache.as_state(),
            "encoded": encoded,
            "store_keys": keys,
            "store_values": values,
            **counters,
        }

    def _no_summary(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return zeros with the shapes of :meth:`_summarise`."""
        nothing = encoded.new_zeros(encoded.shape[0], self.summary_length, self.d_model)
        return nothing, torch.zeros_like(nothing)

    def _summarise(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return the store's keys and values ``[b, S, D]`` for complete segments ``[b, L, D]``."""
        queries = self.summary_queries.to(encoded.dtype).expand(encoded.shape[0], -1, -1)
        block = torch.cat([encoded, queries], dim=1)
        positions = torch.arange(block.shape[1], device=block.device)
        context = SequenceContext(self.summary_layer.sinks())
        summary = self.summary_layer(block, positions, context)[:, encoded.shape[1] :].contiguous()
        # With one head, because ONNX has only attention with heads.
        segment = encoded.unsqueeze(1)
        content = F.scaled_dot_product_attention(summary.unsqueeze(1), segment, segment).squeeze(1)
        return summary, self.store_value(content)

    def _retrieve(self, encoded: Tensor, keys: Tensor, values: Tensor, empty: Tensor | None = None) -> Tensor:
        """Return what each step reads, ``[b, t, D]``, from the ``top_k`` entries that it scores highest.

        Args:
            encoded: the encoded steps ``[b, t, D]`` that read.
            keys: the store's keys ``[b, n, D]``.
            values: the store's values ``[b, n, D]``.
            empty: bool ``[b, 1, n]``, true for slots that hold nothing.
        """
        weights = self.retrieval_weights(encoded, keys, empty)
        return weights @ values.to(weights.dtype)

    def retrieval_weights(self, encoded: Tensor, keys: Tensor, empty: Tensor | None = None) -> Tensor:
        """Return each step's weights on all entries, ``[b, t, n]``, zero except for the ``top_k`` best."""
        queries = self.query(encoded)
        scores = queries @ keys.to(queries.dtype).transpose(1, 2) / self.d_model**0.5  # (b, t, n)
        if empty is not None:
            scores = scores.masked_fill(empty, -torch.inf)
        best, index = scores.topk(min(self.top_k, scores.shape[-1]), dim=-1)
        # If a store holds nothing, all scores are -inf, and their softmax is NaN.
        weights = best.softmax(dim=-1).masked_fill(best == -torch.inf, 0)
        return torch.zeros_like(scores).scatter(-1, index, weights.to(scores.dtype))

    def _combine(self, encoded: Tensor, read: Tensor | None) -> Tensor:
        return self.norm(encoded if read is None else encoded + self.out(read))
