"""What a step reads from its memory: the attention weights of acting, recorded beside it.

Nothing of this runs unless it is asked for. While it is, the model acts as ever: the recorder computes the weights once
more from the queries and the cached keys, and changes neither.
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
    """What one step read; a row for every head of every layer, k things that could be read.

    Attributes:
        tokens: int64 ``[k]``, ascending: steps by their number ``0, 1, ...`` since the recording began, the present
            one last, and the summary of segment n (all its tokens together) as ``-1 - n``.
        weights: float32 ``[rows, k]``; with the sink, each row sums to 1.
        sink: float32 ``[rows]``, what goes to the sink; zero where there is none.
    """

    tokens: Tensor
    weights: Tensor
    sink: Tensor


class AttentionRecorder:
    """Holds what the latest step read.

    Args:
        model: the model.

    Attributes:
        rows: names of the rows: ``(layer, head)`` from 1, and ``("store", 1)`` for retrieval; none for a model without
            attention.
        latest: what the latest step read; None before the first, and for a model without attention.
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
            raise ValueError(f"x_t has {x_t.shape[0]} rows: attention is recorded of one")
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
        """Run the layers; of the passes that a step takes, the first begins with the step, and others write."""
        if self._layers:
            return run(x, positions, context)
        layout = self._model.cache_layout(self._state)
        assert layout is not None
        self._layout = layout
        return run(x, positions, _Recording(context, self._layers))

    def retrieval_weights(self, weigh: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Run the store's lookup ``[1, 1, n]``."""
        weights = weigh(*arguments)
        assert isinstance(self._model, RetrievalMemory)
        self._retrieved = self._model.store_layout(self._state), weights[0].float().cpu()
        return weights

    def _summed(self) -> StepAttention | None:
        """Return the weights by what they are given to: tokens of one summary together."""
        if not self._layers:
            return None
        weights = torch.cat(self._layers).cpu()  # [rows, sinks + k]
        n_sinks = int(self._sinks)
        if weights.shape[1] != n_sinks + len(self._layout):  # a subclass that lays out its cache in its own way
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
    """A context that also keeps the weights ``[H, k]`` of the first token, layer by layer."""

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
    """Record what each call of ``model.step`` for one sequence reads, until the context ends."""
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
            delattr(owner, name)  # the class's own is back


def _before(record: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **settings: record(original, *arguments, **settings)
