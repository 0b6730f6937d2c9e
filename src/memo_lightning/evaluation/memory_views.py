"""Looking inside Memo's memory: what a step attends to, and what summaries hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memo_lightning.models import MemoTransformer
from memo_lightning.models.attention import Attention
from memo_lightning.models.rotary import rotate
from memo_lightning.models.transformer import Block


@dataclass(frozen=True)
class MemoryView:
    """What Memo did with some rows.

    Attributes:
        attention: share of each step's attention that goes to each earlier segment's summary, and, last, to the
            steps of its own segment, ``[layers, B, T, n + 1]``, mean over heads; entries of a row sum to 1.
        summaries: the summary tokens, in the order they were written, ``[B, n, S, D]``.
    """

    attention: Tensor
    summaries: Tensor


@torch.no_grad()
def view_memory(model: MemoTransformer, x: Tensor) -> MemoryView:
    """Step Memo through ``x [B, T, D]``, rows of one trial each, and record its attention and its summaries.

    Raises:
        ValueError: if the model has a sink or a budget, which the shares would have to account for.
    """
    if model.transformer.sink_kv or model.memory_budget is not None:
        raise ValueError("sink_kv and memory_budget: must be off for a view of the memory")
    batch, n_steps, _ = x.shape
    n_summaries, per_summary = n_steps // model.segment_length, model.summary_length
    n_layers = model.transformer.n_layers
    attention = x.new_zeros(n_layers, batch, n_steps, n_summaries + 1)
    queries: list[Tensor] = []
    passes: list[Tensor] = []
    handles = [model.transformer.register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0]))]
    for block in model.transformer.blocks:
        assert isinstance(block, Block)
        handles.append(block.attention.register_forward_pre_hook(_keep_queries(queries)))
    state, summaries = model.init_state(batch), []
    try:
        for step in range(n_steps):
            passes.clear()
            queries.clear()
            held = int(state["length"][0])
            kept = [state["keys"][str(layer)][:, :, :held].clone() for layer in range(n_layers)]
            _, state = model.step(x[:, step], state)
            done = step // model.segment_length
            for layer in range(n_layers):
                own = queries[layer][1]
                keys = torch.cat([kept[layer], own], dim=2)
                scores = queries[layer][0] @ keys.mT / keys.shape[-1] ** 0.5
                weights = scores.softmax(-1).mean(1).squeeze(1)  # (B, held + 1)
                of_summaries = weights[:, : done * per_summary].unflatten(1, (done, per_summary)).sum(-1)
                attention[layer, :, step, :done] = of_summaries
                attention[layer, :, step, -1] = weights[:, done * per_summary :].sum(-1)
            if len(passes) > 1:  # the step, the queries that write the summary, and the summary itself
                summaries.append(passes[2])
    finally:
        for handle in handles:
            handle.remove()
    return MemoryView(attention, torch.stack(summaries, dim=1))


def _keep_queries(queries: list[Tensor]) -> Callable[[torch.nn.Module, tuple[Any, ...]], None]:
    """Return a hook of an attention layer that keeps its rotated queries and keys."""

    def keep(attention: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(attention, Attention)
        x, _, _, cos, sin = inputs
        qkv = attention.qkv(x).view(*x.shape[:2], 3, attention.n_heads, -1).permute(2, 0, 3, 1, 4)
        queries.append(rotate(qkv[:2], cos, sin))

    return keep
