"""Recording of the attention weights while acting: what a step reads from its memory.

Nothing here runs unless it is asked for, and recording does not change how the model acts: the recorder recomputes the
weights from the queries and the cached keys, and changes neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from memo_lightning.models.base import SequenceModel
from memo_lightning.models.kv_cache import CacheReader, CacheStepper
from memo_lightning.models.retrieval import RetrievalMemory
from memo_lightning.models.transformer_model import TransformerModel


@dataclass(frozen=True)
class StepAttention:
    """The attention of one step: a row for every head of every layer, over k items that could be read.

    Attributes:
        tokens: int64 ``[k]``, ascending. Steps are numbered ``0, 1, ...`` since the recording began, the current one
            last; the summary of segment n (all its tokens together) is ``-1 - n``.
        weights: float32 ``[rows, k]``; with the sink, each row sums to 1, or to 0 for a store that is still empty.
        sink: float32 ``[rows]``, the weight on the sink; zero if there is none.
    """

    tokens: Tensor
    weights: Tensor
    sink: Tensor


class AttentionRecorder:
    """A recorder that holds what the latest step read.

    Args:
        model: the model to record.

    Attributes:
        rows: names of the rows: ``(layer, head)``, counted from 1, and ``("store", 1)`` for retrieval; empty for a
            model without attention.
        latest: the attention of the latest step; None before the first, and for a model without attention.
    """

    def __init__(self, model: SequenceModel) -> None:
        self._model = model
        self.rows: list[tuple[str, int]] = []
        self._sinks = isinstance(model, TransformerModel) and model.transformer.sink_kv
        if isinstance(model, TransformerModel) and model.cache_layout(model.init_state(1)) is not None:
            stack = model.transformer
            self.rows = [(str(layer + 1), head + 1) for layer in range(stack.n_layers) for head in range(stack.n_heads)]
            if isinstance(model, RetrievalMemory):
                self.rows.append(("store", 1))
        self.latest: StepAttention | None = None
        self._n_steps = self._memory_start = 0
        self._layout, self._layers = torch.empty(0, dtype=torch.int64), list[Tensor]()
        self._retrieved: tuple[Tensor, Tensor] | None = None

    def step(
        self, step: Callable[..., Any], x_t: Tensor, state: TensorDict, is_init: Tensor | None = None
    ) -> tuple[Tensor, TensorDict]:
        """Run the model's ``step`` and record what it read."""
        if x_t.shape[0] != 1:
            raise ValueError(f"x_t has {x_t.shape[0]} sequences: must be 1 to record attention")
        if is_init is not None and bool(is_init[0]):
            self._memory_start = self._n_steps
        self._layers, self._retrieved = [], None
        self._state = state
        result = step(x_t, state, is_init)
        self.latest = self._summed()
        self._n_steps += 1
        return result

    def run_layers(
        self, run: Callable[..., Tensor], x: Tensor, positions: Tensor, context: CacheStepper | CacheReader
    ) -> Tensor:
        """Run the layers; record only a step's first pass, which begins with its token, as others write summaries."""
        if self._layers:
            return run(x, positions, context)
        layout = self._model.cache_layout(self._state)
        assert layout is not None
        self._layout = layout
        return run(x, positions, _Recording(context, self._layers))

    def retrieval_weights(self, weigh: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Run the store's lookup ``[1, 1, n]`` and record its weights."""
        weights = weigh(*arguments)
        assert isinstance(self._model, RetrievalMemory)
        self._retrieved = self._model.store_layout(self._state), weights[0].float().cpu()
        return weights

    def _summed(self) -> StepAttention | None:
        """Return the weights per step and per summary, summed over the tokens of each summary."""
        if not self._layers:
            return None
        weights = torch.cat(self._layers).cpu()  # [rows, sinks + k]
        n_sinks = int(self._sinks)
        if weights.shape[1] != n_sinks + len(self._layout):  # a subclass with a cache layout of its own
            return None
        sink, weights = weights[:, :n_sinks].sum(1), weights[:, n_sinks:]
        layout = self._layout
        if len(self.rows) > len(weights):  # retrieval, which reads nothing before the first segment is complete
            held, read = self._retrieved or (layout[:0], weights[:1, :0])
            layout = torch.cat([held, layout])
            weights = torch.block_diag(read, weights).roll(-1, 0)
            sink = torch.cat([sink, sink.new_zeros(1)])
        layout = torch.where(layout < 0, layout, layout + self._memory_start)
        tokens, index = layout.unique(return_inverse=True)
        return StepAttention(tokens, weights.new_zeros(len(weights), len(tokens)).index_add_(1, index, weights), sink)


class _Recording:
    """A context that also records the weights ``[H, k]`` of the first token, layer by layer."""

    def __init__(self, context: CacheStepper | CacheReader, layers: list[Tensor]) -> None:
        self._context, self._layers = context, layers

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`~memo_lightning.models.attention.Context` and ``StepContext``."""
        read = self._context.attend(layer, queries, keys, values)
        seen = self._context.seen_keys(layer)[0].float()  # [H, k, d]
        query = queries[0].float().view(len(seen), -1, seen.shape[-1])[:, 0]  # of a pass [H, t, d] or a step [H, d]
        scores = seen @ query.unsqueeze(-1) * query.shape[-1] ** -0.5
        self._layers.append(scores.squeeze(-1).softmax(-1))
        return read


@contextmanager
def recorded_attention(model: SequenceModel) -> Iterator[AttentionRecorder]:
    """Record what each ``model.step`` of a single sequence reads, until the ``with`` block ends."""
    recorder = AttentionRecorder(model)
    if not recorder.rows:
        yield recorder
        return
    assert isinstance(model, TransformerModel)
    wrapped: list[tuple[Any, str, Callable[..., Any]]] = [
        (model, "step", recorder.step),
        (model.transformer, "step", recorder.run_layers),
        (model.transformer, "forward", recorder.run_layers),
    ]
    if isinstance(model, RetrievalMemory):
        wrapped.append((model, "retrieval_weights", recorder.retrieval_weights))
    for owner, name, record in wrapped:
        setattr(owner, name, _before(record, getattr(owner, name)))
    try:
        yield recorder
    finally:
        for owner, name, _ in wrapped:
            delattr(owner, name)  # the class's own method is back


def _before(record: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **settings: record(original, *arguments, **settings)
