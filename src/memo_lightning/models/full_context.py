"""The full-context transformer, which attends to all past steps without summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Unpack

import torch
from tensordict import TensorDict
from torch import Tensor

from memo_lightning.models.base import MemoryScope, check_state_budget
from memo_lightning.models.fixed_state import FixedCache, FixedState, begin_where
from memo_lightning.models.kv_cache import KVCache
from memo_lightning.models.sequence_context import SequenceContext
from memo_lightning.models.transformer import TransformerSizes
from memo_lightning.models.transformer_model import TransformerModel

_CACHE_GROWTH = 256  # slots; large enough that a step seldom waits for an allocation


class FullContextTransformer(TransformerModel):
    """A causal transformer over the whole trial, with a KV cache while acting.

    With ``memory_scope="episode"`` it is the ``no_iea`` baseline (no inter-episode attention): the policy
    then passes episode starts as ``is_init``, so attention stays within an episode and positions start again.

    Args:
        position_offset: position of a trial's first step. It matters only with ``sink_kv``, since the sink key is not
            rotated.
        memory_budget: number of newest steps that are attended to, the current one included; older ones are dropped,
            and positions are not re-based. None for all.
        memory_scope: what the memory spans; see :class:`SequenceModel`.
        **sizes: see :class:`TransformerModel`.

    Raises:
        ValueError: if the sizes do not fit together.
    """

    state_names = ("keys", "values", "steps", "budget")
    fixed_state_meanings: ClassVar[Mapping[str, str]] = {
        "keys": "keys of the newest steps in one layer, [heads, slots, head width]",
        "values": "values of the newest steps in one layer, [heads, slots, head width]",
        "steps": "steps since the memory was emptied",
    }

    def __init__(
        self,
        position_offset: int = 0,
        memory_budget: int | None = None,
        memory_scope: MemoryScope = "trial",
        **sizes: Unpack[TransformerSizes],
    ) -> None:
        super().__init__(memory_scope, **sizes)
        self.position_offset = position_offset
        self.memory_budget = memory_budget

    def check_memory_budget(self, budget: int) -> None:
        """Raise ``ValueError`` unless at least the current step fits."""
        if budget < 1:
            raise ValueError(f"memory_budget={budget}: must be at least 1")

    def budget_of_trial(self, n_steps: int) -> int:
        """Return the smallest memory budget that drops nothing in a trial of ``n_steps``."""
        return n_steps

    def check_state(self, state: TensorDict) -> None:
        """Raise ``ValueError`` unless ``state`` has the model's sizes and budget."""
        KVCache.check(state, self.transformer)
        check_state_budget(state, self.memory_budget)

    def forward(
        self,
        x: Tensor,
        is_init: Tensor | None = None,
        segment_length: int | None = None,
        dropped_layers: Sequence[int] | None = None,
    ) -> Tensor:
        """Process whole sequences in one pass; see :meth:`SequenceModel.forward`.

        ``dropped_layers`` overrides the layers drawn in ``train()`` mode.
        """
        self.check_sequences(x, is_init)
        trial_steps = _trial_steps(x, is_init)
        dropped = self.dropped_in_pass(dropped_layers)
        context = self._sequence_context(trial_steps, dropped)
        return self.transformer(x, trial_steps + self.position_offset, context, dropped)

    @torch.no_grad()
    def prefill(self, x: Tensor, is_init: Tensor | None = None) -> tuple[Tensor, TensorDict]:
        """Process whole sequences in one pass; see :meth:`SequenceModel.prefill`."""
        self.check_sequences(x, is_init)
        trial_steps = _trial_steps(x, is_init)
        state = self.init_state(x.shape[0])
        state["steps"] += trial_steps[..., -1].flatten().cpu() + 1
        budget, held = self.memory_budget or x.shape[1], state["steps"]
        cache = KVCache(state, self.transformer, _CACHE_GROWTH, self.memory_budget)
        age = torch.arange(x.shape[1] - 1, -1, -1)
        rows, times = (age < held.clamp(max=budget)[:, None]).nonzero().unbind(1)
        slots = (held[rows] - 1 - age[times]) % budget
        context = cache.recorder(self._sequence_context(trial_steps), rows, times, slots)
        return self.transformer(x, trial_steps + self.position_offset, context), state

    def _sequence_context(self, trial_steps: Tensor, dropped: Sequence[int] = ()) -> SequenceContext:
        """Return the context of a pass over ``trial_steps [B, 1, T]``, or ``[T]`` if all sequences agree."""
        steps = torch.arange(trial_steps.shape[-1], device=trial_steps.device)
        first_seen = None if trial_steps.ndim == 1 else steps - trial_steps.squeeze(1)  # (B, T)
        if self.memory_budget is not None and self.memory_budget < len(steps):
            window = (steps - self.memory_budget + 1).clamp(min=0).unsqueeze(0)
            first_seen = window if first_seen is None else torch.maximum(first_seen, window)
        return SequenceContext(self.transformer.sinks(dropped), first_seen, self.memory_budget)

    def init_state(self, batch_size: int) -> TensorDict:
        """Return an empty memory: keys and values per layer, the steps seen since the trial began, and the budget."""
        capacity = min(_CACHE_GROWTH, self.memory_budget or _CACHE_GROWTH)
        buffers = KVCache.allocate(self.transformer, batch_size, capacity)
        # Counters stay on the CPU: they decide what is run next, and reading them must not wait for a GPU.
        steps = torch.zeros(batch_size, dtype=torch.int64)
        budget = torch.full_like(steps, self.memory_budget or 0)
        return TensorDict({**buffers, "steps": steps, "budget": budget}, [batch_size])

    def cache_layout(self, state: TensorDict) -> Tensor:
        """Return which step each slot holds; see :meth:`SequenceModel.cache_layout`."""
        newest = int(state["steps"][0])
        if self.memory_budget is None:
            return torch.arange(newest + 1)
        slots = torch.arange(min(newest + 1, self.memory_budget))
        return slots + (newest - slots) // self.memory_budget * self.memory_budget

    @torch.no_grad()
    def step(self, x_t: Tensor, state: TensorDict, is_init: Tensor | None = None) -> tuple[Tensor, TensorDict]:
        """Process one step of every sequence; see :meth:`SequenceModel.step`.

        With a budget, the cache is a ring buffer: a new step overwrites the oldest.
        """
        self.check_step(x_t, state, is_init)
        budget, steps = self.memory_budget, state["steps"]
        if is_init is not None:
            steps.masked_fill_(is_init.to(steps.device), 0)
        slots = last_seen = steps
        if budget is not None:
            slots, last_seen = steps % budget, steps.clamp(max=budget - 1)
        cache = KVCache(state, self.transformer, _CACHE_GROWTH, budget)
        y = cache.step(x_t, steps + self.position_offset, slots, last_seen)
        steps += 1
        return y, state

    def init_fixed_state(self, batch_size: int) -> FixedState:
        """Return an empty memory of fixed shape; see :meth:`SequenceModel.init_fixed_state`."""
        cache = FixedCache.allocate(self.transformer, batch_size, self.fixed_budget())
        return {**cache, "steps": cache["keys.0"].new_zeros(batch_size, dtype=torch.int64)}

    def fixed_step(
        self, x_t: Tensor, state: FixedState, is_init: Tensor, completes: bool | None = None
    ) -> tuple[Tensor, FixedState]:
        """Process one step of every sequence; see :meth:`SequenceModel.fixed_step`."""
        budget, cache = self.fixed_budget(), FixedCache.of(state, self.transformer)
        (steps,) = begin_where(is_init, state["steps"])
        seen = cache.slots <= steps.clamp(max=budget - 1)[:, None, None]  # (B, 1, slots)
        y = cache.run(x_t.unsqueeze(1), steps + self.position_offset, (steps % budget)[:, None], seen)
        return y.squeeze(1), {**cache.as_state(), "steps": steps + 1}


def _trial_steps(x: Tensor, is_init: Tensor | None) -> Tensor:
    """Number the steps of ``x [B, T, D]`` within their trials: ``[B, 1, T]``, or ``[T]`` if all sequences agree."""
    steps = torch.arange(x.shape[1], device=x.device)
    if is_init is None or not bool(is_init[:, 1:].any()):
        return steps
    starts = torch.where(is_init, steps, 0).cummax(dim=1).values  # (B, T)
    return (steps - starts).unsqueeze(1)
