"""Keys and values while acting: one growing buffer per layer, one length per row."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from memo_lightning.models.attention import Context, causal_attention
from memo_lightning.models.rotary import positions_from
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
        self._keys, self._values, self._stack = state["keys"], state["values"], stack
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

    def run(
        self,
        tokens: Tensor,
        first_positions: Tensor,
        slots: Tensor,
        rows: Tensor | None = None,
        last_seen: Tensor | None = None,
    ) -> Tensor:
        """Run tokens through all layers, storing them and attending to everything up to them.

        Args:
            tokens: ``[b, t, D]``.
            first_positions: int64 ``[b]`` on the CPU, the position of each row's first token.
            slots: int64 ``[b]`` on the CPU, the first slot each row writes to.
            rows: int64 ``[b]``, the cache rows that take part; all of them when None.
            last_seen: int64 ``[b]`` on the CPU, the last slot that a row's first token sees; its own by
                default.

        Returns:
            Normed outputs ``[b, t, D]``.
        """
        last_seen = slots if last_seen is None else last_seen
        slots, last_seen = slots + self._n_sinks, last_seen + self._n_sinks
        positions = positions_from(first_positions, tokens.shape[1], tokens.device)
        if tokens.shape[1] > 1 or rows is not None or torch.is_grad_enabled():
            return self._stack(tokens, positions, CacheWriter(self._keys, self._values, slots, rows, last_seen))
        stepper = CacheStepper(self._keys, self._values, slots, last_seen)
        return self._stack.step(tokens.squeeze(1), positions, stepper).unsqueeze(1)

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


class CacheStepper:
    """What :class:`CacheWriter` does, for one token of every row and without gradient: in fewer operations."""

    def __init__(self, keys: TensorDict, values: TensorDict, slots: Tensor, last_seen: Tensor) -> None:
        buffer = keys["0"]
        device, n_rows, n_heads = buffer.device, buffer.shape[0], buffer.shape[1]
        self._keys, self._values, self._scale = keys, values, buffer.shape[3] ** -0.5
        self._slot, self._end = int(slots[0]), int(last_seen.max()) + 1
        self._slots: Tensor | None = None
        if bool((slots != slots[0]).any()):
            index = slots.to(device, non_blocking=True)
            self._slots = index[:, None, None, None].expand(-1, n_heads, 1, buffer.shape[3])
        self._hidden: Tensor | None = None  # added to the scores [B H, 1, k]
        if bool((last_seen != last_seen[0]).any()):
            last_seen = last_seen.to(device, non_blocking=True)
            unseen = torch.arange(self._end, device=device) > last_seen[:, None, None, None]
            hidden = buffer.new_zeros(n_rows, 1, 1, self._end).masked_fill_(unseen, -torch.inf)
            self._hidden = hidden.expand(-1, n_heads, -1, -1).reshape(n_rows * n_heads, 1, self._end)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Store ``keys, values [B, H, d]``; return ``[B, H, d]``, what the ``queries [B, H, d]`` read."""
        seen_keys, seen_values = (
            self._store(self._keys[str(layer)], keys),
            self._store(self._values[str(layer)], values),
        )
        n_rows, n_heads, width = queries.shape
        if queries.device.type != "cpu":
            mask = None if self._hidden is None else self._hidden.view(n_rows, n_heads, 1, -1).to(queries.dtype)
            shape = (n_rows, n_heads, -1, width)
            read = F.scaled_dot_product_attention(
                queries.unsqueeze(2), seen_keys.view(shape), seen_values.view(shape), attn_mask=mask
            )
            return read.squeeze(2)
        # On the CPU torch's kernel is made for many queries: it takes 1.4 times as long for one.
        one = queries.reshape(-1, 1, width)
        hidden = self._hidden if self._hidden is not None else one.new_empty(1, 1, 1)
        beta = 0 if self._hidden is None else 1
        scores = torch.baddbmm(hidden, one, seen_keys.transpose(1, 2), beta=beta, alpha=self._scale)
        return torch.bmm(scores.softmax(-1), seen_values).view(n_rows, n_heads, width)

    def seen_keys(self, layer: int) -> Tensor:
        """Return the keys ``[B, H, k, d]`` of the slots up to the last that any row sees, sinks first."""
        return self._keys[str(layer)][:, :, : self._end]

    def _store(self, buffer: Tensor, new: Tensor) -> Tensor:
        """Store ``new [B, H, d]``, and return all that is seen of a layer, ``[B H, k, d]``."""
        if self._slots is None:
            buffer[:, :, self._slot] = new
        else:
            buffer.scatter_(2, self._slots, new.unsqueeze(2).to(buffer.dtype))
        return buffer.flatten(0, 1)[:, : self._end]
