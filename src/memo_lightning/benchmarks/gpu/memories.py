"""The memories that are measured, and their sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memo_lightning.benchmarks.reencoding import ReencodingMemo
from memo_lightning.models import (
    GRU,
    LSTM,
    DirectKVTransformer,
    FullContextTransformer,
    Memoryless,
    MemoTransformer,
    RecurrentMemoryTransformer,
    RetrievalMemory,
    SequenceModel,
)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a memory; see :class:`~memo_lightning.models.MemoTransformer`."""

    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    segment_length: int = 256
    summary_length: int = 32


TINY = Sizes(16, 1, 2, 32, segment_length=8, summary_length=2)
QUICK = Sizes(64, 2, 4, 256, segment_length=40, summary_length=4)  # sizes for the quick grid worlds
WIDTH_256 = Sizes(256, 4, 8, 1024)
WIDTH_768 = Sizes(768, 12, 12, 3072)

_SEGMENTED: dict[str, tuple[Callable[..., SequenceModel], dict[str, Any]]] = {
    "memo": (MemoTransformer, {}),
    "memo_checkpointed": (MemoTransformer, {"checkpoint_segments": True}),
    "memo_sink": (MemoTransformer, {"sink_kv": True}),
    "memo_reencoding": (ReencodingMemo, {}),
    "autocompressor": (MemoTransformer, {"gradient_segments": 2}),
    "direct_kv": (DirectKVTransformer, {}),
    "rmt": (RecurrentMemoryTransformer, {}),
    "retrieval": (RetrievalMemory, {"top_k": 2}),
}
_FULL_CONTEXT: dict[str, dict[str, Any]] = {
    "full_context": {},
    "full_context_sink": {"sink_kv": True},
    "full_context_budget": {"memory_budget": 24},
}
NAMES = (*_SEGMENTED, *_FULL_CONTEXT, "lstm", "gru", "memoryless")


def build(name: str, sizes: Sizes, **changes: Any) -> SequenceModel:
    """Build a memory, one of :data:`NAMES`, with fresh weights on the CPU; ``changes`` override its settings."""
    stack: dict[str, Any] = {name: getattr(sizes, name) for name in ("d_model", "n_layers", "n_heads", "d_ff")}
    if name in _SEGMENTED:
        kind, settings = _SEGMENTED[name]
        lengths = {"segment_length": sizes.segment_length, "summary_length": sizes.summary_length}
        return kind(**stack, **lengths, **{**settings, **changes})
    if name in _FULL_CONTEXT:
        return FullContextTransformer(**stack, **{**_FULL_CONTEXT[name], **changes})
    if name == "memoryless":
        return Memoryless(sizes.d_model, sizes.n_layers, sizes.d_ff)
    return {"lstm": LSTM, "gru": GRU}[name](sizes.d_model, sizes.n_layers)
