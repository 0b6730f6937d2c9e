"""Memory states of fixed shape, so that a step can be traced, compiled and exported.

Where :meth:`SequenceModel.step` uses counters on the CPU, growing buffers and selected rows, this module uses tensors
only. Counters are on the device, every slot that a memory may ever use exists from the start, and a mask tells which
slots are in use. A state of zeros is an empty memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram, export
from torch.fx import GraphModule

from memo_lightning.models.attention import KeysValues, causal_attention, prepend_sink
from memo_lightning.models.transformer import Transformer

FixedState = dict[str, Tensor]
"""The tensors ``[B, ...]`` of a memory, by name."""

LayerTensors = list[Tensor]
"""One tensor ``[B, H, n, d]`` per layer."""

T = TypeVar("T")


class FixedCache:
    """A KV cache with a fixed number of slots per sequence.

    The counterpart of :class:`~memo_lightning.models.kv_cache.KVCache`. Nothing is changed in place: after a run,
    ``keys`` and ``values`` are new tensors. If layers have a sink, its key and value take one extra slot before the
    others. Every run writes them, so an empty cache is all zeros.

    Args:
        keys: one tensor ``[B, H, sinks + n_slots, d]`` per layer.
        values: likewise.
        stack: the transformer whose keys and values these are.
    """

    def __init__(self, keys: LayerTensors, values: LayerTensors, stack: Transformer) -> None:
        self.keys, self.values, self._stack = list(keys), list(values), stack
        self._n_sinks = int(stack.sink_kv)

    @staticmethod
    def allocate(stack: Transformer, batch_size: int, n_slots: int) -> FixedState:
        """Return an empty cache as part of a state, on the device of ``stack``."""
        shape = (batch_size, stack.n_heads, int(stack.sink_kv) + n_slots, stack.head_dim)
        names = [f"{part}.{layer}" for part in ("keys", "values") for layer in range(stack.n_layers)]
        return {name: stack.norm.weight.new_zeros(shape) for name in names}

    @staticmethod
    def of(state: FixedState, stack: Transformer) -> FixedCache:
        """Return the cache that is part of ``state``."""
        keys, values = ([state[f"{part}.{i}"] for i in range(stack.n_layers)] for part in ("keys", "values"))
        return FixedCache(keys, values, stack)

    def as_state(self) -> FixedState:
        """Return the cache as part of a state."""
        parts = {"keys": self.keys, "values": self.values}
        return {f"{part}.{layer}": buffer for part, buffers in parts.items() for layer, buffer in enumerate(buffers)}

    @property
    def slots(self) -> Tensor:
        """The indices of all slots, ``[n_slots]``."""
        return torch.arange(self.keys[0].shape[2] - self._n_sinks, device=self.keys[0].device)

    def run(self, tokens: Tensor, first_positions: Tensor, slots: Tensor, seen: Tensor) -> Tensor:
        """Run tokens through all layers and store their keys and values.

        Args:
            tokens: ``[B, t, D]``.
            first_positions: int64 ``[B]``, the position of each sequence's first token.
            slots: int64 ``[B, t]``, where the tokens are stored.
            seen: bool ``[B, t, n_slots]``, the slots that each token attends to, including those stored by this run.

        Returns:
            Outputs ``[B, t, D]`` after the final norm.
        """
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        return self._stack(tokens, first_positions[:, None, None] + steps, _Writer(self, slots, seen))

    def newest(self, n: int) -> tuple[LayerTensors, LayerTensors]:
        """Return the keys and values of the last ``n`` slots, ``[B, H, n, d]`` per layer."""
        return [keys[:, :, -n:].contiguous() for keys in self.keys], [
            values[:, :, -n:].contiguous() for values in self.values
        ]

    def store(self, keys: LayerTensors, values: LayerTensors, slots: Tensor) -> None:
        """Store ``keys`` and ``values [B, H, n, d]`` of every layer in ``slots``, int64 ``[B, n]``."""
        for buffers, new in ((self.keys, keys), (self.values, values)):
            index = _index(slots + self._n_sinks, new[0])
            buffers[:] = [buffer.scatter(2, index, part) for buffer, part in zip(buffers, new, strict=True)]

    def shift_positions(self, shifts: Tensor) -> None:
        """Move the keys of all slots by ``shifts``, a number of positions for each, int64 ``[B, n_slots]``."""
        shifts = F.pad(shifts, (self._n_sinks, 0)).unsqueeze(1)
        # In place: under a condition, Dynamo (torch 2.13) would lose a new list.
        self.keys[:] = [self._stack.rotary.move(keys, shifts) for keys in self.keys]

    def write(self, layer: int, new: KeysValues, index: Tensor) -> KeysValues:
        """Store the ``new`` keys and values of a layer at ``index [B, H, n, d]``; return all of the layer's."""
        self.keys[layer] = self.keys[layer].scatter(2, index, new[0])
        self.values[layer] = self.values[layer].scatter(2, index, new[1])
        return self.keys[layer], self.values[layer]

    def with_sink(self, slots: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Prepend the sink's slot, if there is one, to ``slots [B, t]`` and ``seen [B, t, n_slots]``."""
        if not self._n_sinks:
            return slots, seen
        slots = torch.cat([torch.zeros_like(slots[:, :1]), slots + 1], 1)
        return slots, torch.cat([torch.ones_like(seen[..., :1]), seen], -1)

    def sink(self, layer: int) -> KeysValues | None:
        """Return the key and value ``[1, H, 1, d]`` of a layer's sink; None if it has none."""
        return self._stack.sinks()[layer]


class _Writer:
    """The context of one run: it stores the run's tokens, which attend to what is stored."""

    def __init__(self, cache: FixedCache, slots: Tensor, seen: Tensor) -> None:
        self._cache = cache
        self._slots, seen = cache.with_sink(slots, seen)
        hidden = torch.zeros_like(seen, dtype=cache.keys[0].dtype)
        self._mask = hidden.masked_fill(~seen, -torch.inf).unsqueeze(1)  # (B, 1, t, n)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`~memo_lightning.models.attention.Context`."""
        new = prepend_sink(self._cache.sink(layer), keys, values)
        stored = self._cache.write(layer, new, _index(self._slots, new[0]))
        return causal_attention(queries, *stored, self._mask)


def _index(slots: Tensor, like: Tensor) -> Tensor:
    """Return ``slots [B, n]`` as an index ``[B, H, n, d]`` for scattering ``like``."""
    return slots[:, None, :, None].expand(-1, like.shape[1], -1, like.shape[3])


def begin_where(is_init: Tensor, *counters: Tensor) -> tuple[Tensor, ...]:
    """Return int64 ``counters [B]``, set to zero where ``is_init [B]`` is true."""
    return tuple(counter.masked_fill(is_init, 0) for counter in counters)


def run_if_any(
    flags: Tensor, known: bool | None, run: Callable[..., T], skip: Callable[..., T], operands: tuple[Any, ...]
) -> T:
    """Return ``run(*operands)`` if any of ``flags`` is true, else ``skip(*operands)``, which must look the same.

    Args:
        flags: bool ``[B]``.
        known: whether any is true; None for a condition in the graph, for a caller that does not know.
        run: a function of tensors.
        skip: likewise.
        operands: their arguments.
    """
    if known is None:
        return torch.cond(flags.any(), run, skip, operands)
    return (run if known else skip)(*operands)


class FixedStep(nn.Module):
    """One step of a memory as a module, to be traced, compiled or exported.

    Args:
        model: a :class:`~memo_lightning.models.base.SequenceModel`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, x_t: Tensor, state: FixedState, is_init: Tensor) -> tuple[Tensor, FixedState]:
        """Process one step ``x_t [B, D]`` of every sequence; see :meth:`SequenceModel.fixed_step`."""
        return self.model.fixed_step(x_t, state, is_init)  # type: ignore[operator]


@torch.no_grad()
def trace(module: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    """Export a module with ``torch.export`` for inputs of these shapes, without the paths of source files."""
    # Dynamo traces conditions; it would treat sizes that differ from those of an earlier trace as unknown.
    torch._dynamo.reset()
    program = export(module, inputs)
    for graph in program.graph_module.modules():
        for node in graph.graph.nodes if isinstance(graph, GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program
