"""Keys and values while acting: one growing buffer per layer, one length per row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict
from torch import Tensor

from memo_lightning.models.attention import Context, causal_attention
from memo_lightning.models.transformer import Transformer


class KVCache:
    """The keys and values of every row's tokens, at slots ``0, 1, ...``, held in a state TensorDict.

    Rows have lengths of their own, so they can be reset, and can reach segment boundaries, at different
    steps. Writing past the capacity grows the buffers to exactly what is needed, rounded up to ``growth``
    slots, one layer at a time, so that at no moment much more is allocated than is held. Where the layers
    have a sink, its key and value lie before slot 0, so that acting need not copy the cache to prepend them.

    Args:
        state: TensorDict with nested ``keys`` and ``values``, one ``[B, H, capacity, d]`` tensor per layer.
        stack: the transformer whose keys and values these are.
        growth: slots by which buffers grow.
    """

    def __init__(self, state: TensorDict, stack: Transformer, growth: int) -> None:
        self._keys, self._values = state["keys"], state["values"]
        self._n_sinks = int(stack.sink_kv)
        self.growth = growth

    @staticmethod
    @torch.no_grad()
    def allocate(stack: Transformer, batch_size: int, capacity: int) -> dict[str, TensorDict]:
        """Return the empty ``keys`` and ``values`` of a state, on the device of ``stack``.

        Under autocast they have its dtype, since that is what the layers compute then.
        """
        weight = stack.norm.weight
        kind = weight.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        # Zeros, not empty: a masked slot has weight 0, and 0 times an accidental NaN would still be NaN.
        shape = (batch_size, stack.n_heads, int(stack.sink_kv) + capacity, stack.head_dim)
        keys = {str(layer): weight.new_zeros(shape, dtype=dtype) for layer in range(stack.n_layers)}
        values = {layer: torch.zeros_like(buffer) for layer, buffer in keys.items()}
        for layer, sink in enumerate(stack.sinks()):
            if sink is not None:
                keys[str(layer)][:, :, :1], values[str(layer)][:, :, :1] = sink
        return {"keys": TensorDict(keys, [batch_size]), "values": TensorDict(values, [batch_size])}

    @staticmethod
    def check(state: TensorDict, stack: Transformer) -> None:
        """Raise ``ValueError`` unless the ``keys`` of ``state`` have the sizes of ``stack``."""
        keys = state["keys"]
        held = (len(keys.keys()), keys["0"].shape[1], keys["0"].shape[3])
        expected = (stack.n_layers, stack.n_heads, stack.head_dim)
        if held != expected:
            raise ValueError(
                f"state belongs to another model: it holds (layers, heads, head width) {held}, must be {expected}"
            )

    @property
    def capacity(self) -> int:
        """Slots that are allocated for every row."""
        return self._keys["0"].shape[2] - self._n_sinks

    def reserve(self, slots: int, limit: int | None = None) -> None:
        """Make room for ``slots`` slots in every row, and never for more than ``limit``."""
        if slots <= self.capacity:
            return
        extra = -(-(slots - self.capacity) // self.growth) * self.growth
        if limit is not None:
            extra = min(extra, limit - self.capacity)
        for buffers in (self._keys, self._values):
            for layer, buffer in buffers.items():
                buffers[layer] = torch.nn.functional.pad(buffer, (0, 0, 0, extra))

    def move(
        self,
        rows: Tensor,
        sources: Tensor,
        targets: Tensor,
        change_keys: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Copy slots of some rows to others.

        Args:
            rows: int64 ``[b]``, the cache rows.
            sources: int64 ``[b, n]``, the slots to copy from.
            targets: int64 ``[b, n]``, the slots to copy to.
            change_keys: what happens to keys ``[b, n, H, d]`` on the way.
        """
        device = self._keys["0"].device
        index = rows.to(device)[:, None]
        sources, targets = sources.to(device) + self._n_sinks, targets.to(device) + self._n_sinks
        for buffers, change in ((self._keys, change_keys), (self._values, None)):
            for buffer in buffers.values():
                moved = buffer[index, :, sources]
                buffer[index, :, targets] = moved if change is None else change(moved)

    def writer(self, slots: Tensor, rows: Tensor | None = None, last_seen: Tensor | None = None) -> CacheWriter:
        """Return the context of one pass that stores its tokens and attends to everything up to them.

        Args:
            slots: int64 ``[b]`` on the CPU, the first slot each row of the pass writes to.
            rows: int64 ``[b]``, the cache rows that take part; all of them when None.
            last_seen: int64 ``[b]`` on the CPU, the last slot that a row's first token sees; its own by
                default.
        """
        last_seen = slots if last_seen is None else last_seen
        return CacheWriter(self._keys, self._values, slots + self._n_sinks, rows, last_seen + self._n_sinks)

    def recorder(self, context: Context, rows: Tensor, times: Tensor, slots: Tensor) -> CacheRecorder:
        """Return the ``context`` of one pass over whole sequences, of which some tokens are stored.

        Args:
            context: decides what the tokens attend to.
            rows: int64 ``[n]``, the rows of the tokens that are stored.
            times: int64 ``[n]``, their places in the pass.
            slots: int64 ``[n]``, the slots they are stored in.
        """
        return CacheRecorder(self._keys, self._values, context, rows, times, slots + self._n_sinks)


class CacheRecorder:
    """Stores some of a pass's keys and values in the cache; the pass attends as another context decides."""

    def __init__(
        self, keys: TensorDict, values: TensorDict, context: Context, rows: Tensor, times: Tensor, slots: Tensor
    ) -> None:
        device = keys["0"].device
        self._keys, self._values, self._context = keys, values, context
        self._rows, self._times, self._slots = (index.to(device) for index in (rows, times, slots))

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`~memo_lightning.models.attention.Context`."""
        for buffers, new in ((self._keys, keys), (self._values, values)):
            buffer = buffers[str(layer)]
            buffer[self._rows, :, self._slots] = new[self._rows, :, self._times].to(buffer.dtype)
        return self._context.attend(layer, queries, keys, values)


class CacheWriter:
    """Stores a pass's keys and values in the cache, and attends to the slots up to each token's own."""

    def __init__(
        self, keys: TensorDict, values: TensorDict, slots: Tensor, rows: Tensor | None, last_seen: Tensor
    ) -> None:
        device = keys["0"].device
        self._keys, self._values = keys, values
        self._rows = None if rows is None else rows.to(device)
        self._slot, self._end = int(slots[0]), int(last_seen.max()) + 1
        in_lockstep = rows is None and bool((slots == slots[0]).all())
        self._slots = None if in_lockstep else slots.to(device, non_blocking=True)
        self._last_seen = None if bool((last_seen == last_seen[0]).all()) else last_seen.to(device, non_blocking=True)
        self._mask: Tensor | None = None

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`~memo_lightning.models.attention.Context`."""
        length = queries.shape[2]
        if self._last_seen is not None and self._mask is None:
            steps = torch.arange(length, device=queries.device)
            slots = torch.arange(self._end + length - 1, device=queries.device)
            self._mask = slots <= (self._last_seen[:, None, None] + steps[:, None])[:, None]  # (b, 1, t, k)
        seen = self._store(self._keys[str(layer)], keys), self._store(self._values[str(layer)], values)
        return causal_attention(queries, *seen, self._mask)

    def _store(self, buffer: Tensor, new: Tensor) -> Tensor:
        length = new.shape[2]
        if self._slots is None:
            buffer[:, :, self._slot : self._slot + length] = new
        else:
            rows = torch.arange(buffer.shape[0], device=buffer.device) if self._rows is None else self._rows
            slots = self._slots[:, None] + torch.arange(length, device=buffer.device)
            buffer[rows[:, None], :, slots] = new.transpose(1, 2).to(buffer.dtype)
        end = self._end + length - 1
        seen = buffer[:, :, :end] if self._rows is None else buffer[self._rows, :, :end]
        return seen.to(new.dtype)
