"""Loading weights of the official implementation by their official names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from memo_lightning.models.transformer import Transformer


def load_official_state_dict(model: nn.Module, params: Mapping[str, Tensor]) -> None:
    """Load weights with the official names into a model, in place.

    The official model keeps its query, key and value projections, and its gate and up projections, in separate
    matrices; here they are rows of one matrix.

    Args:
        model: a sequence model of this package that is built on :class:`Transformer`.
        params: ``{official name: tensor}``, e.g. ``layers.0.self_attn.q_proj.weight``.

    Raises:
        ValueError: if the model has no transformer, names are missing or unknown, or shapes differ; the message
            lists them.
    """
    transformer = getattr(model, "transformer", None)
    if not isinstance(transformer, Transformer):
        raise ValueError(f"model is of type {type(model).__name__}: must be built on a Transformer")
    used: set[str] = set()

    def take(*names: str) -> Tensor:
        missing = [name for name in names if name not in params]
        if missing:
            raise ValueError(f"official weights lack {', '.join(missing)}")
        used.update(names)
        return torch.cat([torch.as_tensor(params[name]) for name in names])

    state: dict[str, Tensor] = {"transformer.norm.weight": take("norm.weight")}
    for layer in range(transformer.n_layers):
        theirs, ours = f"layers.{layer}", f"transformer.blocks.{layer}"
        projections = [f"{theirs}.self_attn.{p}_proj.weight" for p in "qkv"]
        state[f"{ours}.attention.qkv.weight"] = take(*projections)
        state[f"{ours}.attention.out.weight"] = take(f"{theirs}.self_attn.o_proj.weight")
        state[f"{ours}.attention_norm.weight"] = take(f"{theirs}.input_layernorm.weight")
        state[f"{ours}.feed_forward_norm.weight"] = take(f"{theirs}.post_attention_layernorm.weight")
        gate_up = [f"{theirs}.mlp.{p}_proj.weight" for p in ("gate", "up")]
        state[f"{ours}.feed_forward.gate_up.weight"] = take(*gate_up)
        state[f"{ours}.feed_forward.down.weight"] = take(f"{theirs}.mlp.down_proj.weight")
        if transformer.sink_kv:
            for part in ("key", "value"):
                state[f"{ours}.attention.sink_{part}"] = take(f"{theirs}.self_attn.head_bias_{part}")
    if transformer.sink_kv:
        used.add("sink_tokens")  # only fills the sink's slot in the official model and never reaches outputs
    if hasattr(model, "summary_queries"):
        state["summary_queries"] = take("embed_summary.weight")

    unknown = sorted(set(params) - used)
    if unknown:
        raise ValueError(f"official weights hold names that {type(model).__name__} lacks: {', '.join(unknown)}")
    own = model.state_dict()
    differing = [
        f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and own[name].shape != value.shape
    ]
    if differing:
        raise ValueError(f"official weights have the wrong shapes: {'; '.join(differing)}")
    model.load_state_dict(state)
