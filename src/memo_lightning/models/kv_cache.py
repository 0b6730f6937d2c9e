"""The KV cache used while acting: one cache for all sequences, each with its own length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from memo_lightning.models.attention import Context, LayerKeysValues
from memo_lightning.models.attention_kernels import kernel_for, merge
from memo_lightning.models.cache_blocks import CacheBlocks, Placement
from memo_lightning.models.rotary import positions_from
from memo_lightning.models.transformer import Transformer


class KVCache:
    """The keys and values of every row's tokens, held in slots ``0, 1, ...`` of a state TensorDict.

    Each row has its own length, so rows can be reset and reach segment boundaries at different steps. Storing past the
    capacity grows the cache by exactly what is needed, rounded up to a multiple of ``growth`` slots. If the layers have
    a sink, its key and value lie before slot 0, so that acting need not copy the cache to prepend them.

    Args:
        state: TensorDict with nested ``keys`` and ``values``; see :class:`CacheBlocks`.
        stack: the transformer whose keys and values these are.
        growth: number of slots by which the cache grows.
        limit: number of slots beyond which it never grows.
    """

    def __init__(self, state: TensorDict, stack: Transformer, growth: int, limit: int | None = None) -> None:
        self._blocks = CacheBlocks(state["keys"], state["values"])
        self._stack, self._n_sinks = stack, int(stack.sink_kv)
        self._growth, self._limit = growth, limit

    @staticmethod
    @torch.no_grad()
    def allocate(stack: Transformer, batch_size: int, capacity: int) -> dict[str, TensorDict]:
        """Return the empty ``keys`` and ``values`` of a state, on the device of ``stack``.

        Under autocast they have its dtype, since the layers then compute in it.
        """
        weight = stack.norm.weight
        kind = weight.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        first = weight.new_empty(batch_size, stack.n_heads, int(stack.sink_kv) + capacity, stack.head_dim, dtype=dtype)
        keys, values = (CacheBlocks.allocate(first, stack.n_layers) for _ in range(2))
        for layer, sink in enumerate(stack.sinks()):
            if sink is not None:
                keys[str(layer), "0"][:, :, :1], values[str(layer), "0"][:, :, :1] = sink
        return {"keys": keys, "values": values}

    @staticmethod
    def check(state: TensorDict, stack: Transformer) -> None:
        """Raise ``ValueError`` unless the ``keys`` of ``state`` have the sizes of ``stack``."""
        first = state["keys", "0", "0"]
        held = (len(state["keys"].keys()), first.shape[1], first.shape[3])
        expected = (stack.n_layers, stack.n_heads, stack.head_dim)
        if held != expected:
            raise ValueError(
                f"state belongs to another model: it holds (layers, heads, head width) {held}, must be {expected}"
            )

    @property
    def capacity(self) -> int:
        """The number of slots allocated for every row."""
        return self._blocks.n_places - self._n_sinks

    def _reserve(self, slots: int) -> None:
        """Make room for ``slots`` slots in every row."""
        if slots <= self.capacity:
            return
        extra = -(-(slots - self.capacity) // self._growth) * self._growth
        if self._limit is not None:
            extra = min(extra, self._limit - self.capacity)
        self._blocks.extend(extra)

    def step(self, x: Tensor, positions: Tensor, slots: Tensor, last_seen: Tensor | None = None) -> Tensor:
        """Run one token of every row through all layers and store it.

        Args:
            x: ``[B, D]``.
            positions: int64 ``[B]`` on the CPU.
            slots: int64 ``[B]`` on the CPU, where the tokens are stored.
            last_seen: int64 ``[B]`` on the CPU, the last slot that each token sees; by default its own.

        Returns:
            Outputs ``[B, D]`` after the final norm.
        """
        last_seen = slots if last_seen is None else last_seen
        self._reserve(int(last_seen.max()) + 1)
        placements = self._blocks.consecutive(slots + self._n_sinks, 1)
        stepper = CacheStepper(self._blocks, placements, last_seen + self._n_sinks)
        return self._stack.step(x, positions_from(positions, 1, x.device), stepper)

    def run(self, tokens: Tensor, first_positions: Tensor, slots: Tensor) -> Tensor:
        """Run tokens of all rows through all layers and store them behind what they see.

        Args:
            tokens: ``[B, t, D]``.
            first_positions: int64 ``[B]`` on the CPU, the position of each row's first token.
            slots: int64 ``[B]`` on the CPU, the slot that this token is stored in; all slots before it are seen.

        Returns:
            Outputs ``[B, t, D]`` after the final norm.
        """
        if tokens.shape[1] == 1:
            return self.step(tokens.squeeze(1), first_positions, slots).unsqueeze(1)
        y, own = self.read(tokens, first_positions, slots, torch.arange(len(tokens)))
        self.store(own, slots, torch.arange(len(tokens)))
        return y

    def read(
        self, tokens: Tensor, first_positions: Tensor, held: Tensor, rows: Tensor
    ) -> tuple[Tensor, LayerKeysValues]:
        """Run tokens of some rows through all layers without storing anything.

        Args:
            tokens: ``[b, t, D]``; they see what their row holds and, causally, each other.
            first_positions: int64 ``[b]`` on the CPU, the position of each row's first token.
            held: int64 ``[b]`` on the CPU, the number of slots that the tokens of each row see.
            rows: int64 ``[b]`` on the CPU, the cache rows, ascending.

        Returns:
            Outputs ``[b, t, D]`` after the final norm, and the tokens' own keys and values.
        """
        reader = CacheReader(self._blocks, held + self._n_sinks, self._subset(rows))
        y = self._stack(tokens, positions_from(first_positions, tokens.shape[1], tokens.device), reader)
        return y, reader.own

    def keys_values(self, tokens: Tensor, first_positions: Tensor, held: Tensor, rows: Tensor) -> LayerKeysValues:
        """Return the keys and values that :meth:`read` would return, without computing the outputs."""
        reader = CacheReader(self._blocks, held + self._n_sinks, self._subset(rows))
        positions = positions_from(first_positions, tokens.shape[1], tokens.device)
        last = self._stack.last_keys_values(tokens, positions, reader)
        return [*reader.own, last]

    def store(self, layers: LayerKeysValues, slots: Tensor, rows: Tensor) -> None:
        """Store keys and values ``[b, H, t, d]``.

        Args:
            layers: the keys and values of every layer.
            slots: int64 ``[b]`` on the CPU, the slot of each row's first token.
            rows: int64 ``[b]`` on the CPU, the cache rows, ascending.
        """
        length = layers[0][0].shape[2]
        self._reserve(int(slots.max()) + length)
        placements = self._blocks.consecutive(slots + self._n_sinks, length, self._subset(rows))
        for layer, (keys, values) in enumerate(layers):
            self._blocks.store(layer, placements, keys, values)

    def bring_forward(self, rows: Tensor, first: Tensor, n: int) -> None:
        """Copy ``n`` slots of some rows, starting at slot ``first [b]``, to the rows' first slots.

        Args:
            rows: int64 ``[b]`` on the CPU, the cache rows, ascending.
            first: int64 ``[b]`` on the CPU, the first slot to copy.
            n: number of slots.
        """
        layers = self._copies(rows, first, n)
        self.store(layers, torch.zeros_like(first), rows)

    def shift_positions(self, rows: Tensor, first: Tensor, n: int, shift: int) -> None:
        """Move the keys in ``n`` slots of some rows, starting at slot ``first [b]``, by ``shift`` positions.

        Args:
            rows: int64 ``[b]`` on the CPU, the cache rows, ascending.
            first: int64 ``[b]`` on the CPU, the first slot to move.
            n: number of slots.
            shift: number of positions; negative for earlier ones.
        """
        shifts, move = torch.full((1,), shift, device=self._blocks.device), self._stack.rotary.move
        layers = [(move(keys, shifts), values) for keys, values in self._copies(rows, first, n)]
        self.store(layers, first, rows)

    def _copies(self, rows: Tensor, first: Tensor, n: int) -> LayerKeysValues:
        """Return copies ``[b, H, n, d]`` of keys and values; the arguments are those of :meth:`shift_positions`."""
        device, n_places, subset = self._blocks.device, int(first.max()) + n + self._n_sinks, self._subset(rows)
        start = first.to(device, non_blocking=True)[:, None] + self._n_sinks
        index = (start + torch.arange(n, device=device))[:, None, :, None]
        index = index.expand(-1, self._blocks.n_heads, -1, self._blocks.head_dim)
        layers = []
        for layer in range(self._blocks.n_layers):
            keys, values = zip(*self._blocks.seen(layer, n_places, subset), strict=True)
            layers.append((_joined(keys).gather(2, index), _joined(values).gather(2, index)))
        return layers

    def _subset(self, rows: Tensor) -> Tensor | None:
        """Return ``rows``, or None if they are all rows."""
        return None if len(rows) == self._blocks.n_rows else rows

    def recorder(self, context: Context, rows: Tensor, times: Tensor, slots: Tensor) -> CacheRecorder:
        """Wrap the ``context`` of a pass over whole sequences, so that some of its tokens are stored.

        Args:
            context: decides what the tokens attend to.
            rows: int64 ``[n]``, the rows of the tokens that are stored.
            times: int64 ``[n]``, their steps in the pass.
            slots: int64 ``[n]``, the slots they are stored in.
        """
        self._reserve(int(slots.max()) + 1)
        return CacheRecorder(self._blocks, context, self._blocks.scattered(rows, times, rows, slots + self._n_sinks))


class CacheRecorder:
    """A context that stores some of a pass's keys and values and attends as another context decides."""

    def __init__(self, blocks: CacheBlocks, context: Context, placements: list[Placement]) -> None:
        self._blocks, self._context, self._placements = blocks, context, placements

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`~memo_lightning.models.attention.Context`."""
        self._blocks.store(layer, self._placements, keys, values)
        return self._context.attend(layer, queries, keys, values)


class CacheReader:
    """The context of a pass whose tokens see what their rows hold and, causally, each other.

    Args:
        blocks: the cache.
        held: int64 ``[b]`` on the CPU, the number of places that each row's tokens see.
        rows: int64 ``[b]`` on the CPU, the cache rows; None for all.

    Attributes:
        own: keys and values of the pass's tokens in the layers run so far.
    """

    def __init__(self, blocks: CacheBlocks, held: Tensor, rows: Tensor | None) -> None:
        self._blocks = blocks
        self.own: LayerKeysValues = []
        device = blocks.device
        self._rows = None if rows is None else rows.to(device, non_blocking=True)
        # Rows of the pass, grouped by how much they hold: kernels are fastest without a mask.
        self._alike = {
            n: (held == n).nonzero().squeeze(1).to(device, non_blocking=True) for n in held.unique().tolist()
        }

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See :class:`~memo_lightning.models.attention.Context`."""
        self.own.append((keys, values))
        if len(self._alike) == 1:
            (n,) = self._alike
            return self._attend(layer, queries, keys, values, n, self._rows)
        read = torch.empty_like(queries)
        for n, members in self._alike.items():
            rows = members if self._rows is None else self._rows[members]
            read[members] = self._attend(layer, queries[members], keys[members], values[members], n, rows)
        return read

    def _attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, n: int, rows: Tensor | None) -> Tensor:
        """Return the attention of ``rows``' queries ``[b, H, t, d]`` to ``n`` places and, causally, to each other."""
        kernel = kernel_for(queries)
        read = kernel.forward(queries, keys, values, is_causal=True)
        for held_keys, held_values in self._blocks.seen(layer, n, rows):
            held_part = kernel.forward(
                queries, held_keys.to(queries.dtype), held_values.to(queries.dtype), is_causal=False
            )
            read = merge(held_part, read)
        return read.output

    def seen_keys(self, layer: int) -> Tensor:
        """Return the keys ``[b, H, k, d]`` that the first token of every row sees, sinks first and its own last."""
        (n,) = self._alike
        held = [keys for keys, _ in self._blocks.seen(layer, n, self._rows)]
        return torch.cat([*held, self.own[layer][0][:, :, :1]], 2)


class CacheStepper:
    """The context of one step, which stores one token of every row and attends, in few operations without gradient.

    Args:
        blocks: the cache.
        placements: where the tokens go.
        last_seen: int64 ``[B]`` on the CPU, the last place that each token sees.
    """

    def __init__(self, blocks: CacheBlocks, placements: list[Placement], last_seen: Tensor) -> None:
        self._blocks, self._placements = blocks, placements
        self._scale, self._end = blocks.head_dim**-0.5, int(last_seen.max()) + 1
        self._hidden: Tensor | None = None  # added to the scores [B, H, 1, k]
        if bool((last_seen != last_seen[0]).any()):
            last_seen = last_seen.to(blocks.device, non_blocking=True)
            unseen = torch.arange(self._end, device=blocks.device) > last_seen[:, None, None, None]
            self._hidden = torch.zeros_like(unseen, dtype=blocks.dtype).masked_fill_(unseen, -torch.inf)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Store ``keys, values [B, H, d]``; return the attention output ``[B, H, d]`` of the ``queries [B, H, d]``."""
        self._blocks.store(layer, self._placements, keys.unsqueeze(2), values.unsqueeze(2))
        seen = self._blocks.seen(layer, self._end)
        n_rows, n_heads, width = queries.shape
        if queries.device.type != "cpu":
            mask = None if self._hidden is None else self._hidden.to(queries.dtype)
            seen_keys, seen_values = (_joined(blocks) for blocks in zip(*seen, strict=True))
            read = F.scaled_dot_product_attention(queries.unsqueeze(2), seen_keys, seen_values, attn_mask=mask)
            return read.squeeze(2)
        # Torch's CPU kernel is made for many queries: for one, it takes 1.4 times as long.
        one = queries.reshape(-1, 1, width)
        unused = one.new_empty(1, 1, 1)
        flat = [(keys.flatten(0, 1), values.flatten(0, 1)) for keys, values in seen]  # (B H, k, d)
        scores = _joined([torch.baddbmm(unused, one, keys.mT, beta=0, alpha=self._scale) for keys, _ in flat], -1)
        if self._hidden is not None:
            scores.view(n_rows, n_heads, 1, -1).add_(self._hidden)
        weights = scores.softmax(-1).split([keys.shape[1] for keys, _ in flat], -1)
        read = torch.bmm(weights[0], flat[0][1])
        for of_block, (_, block) in zip(weights[1:], flat[1:], strict=True):
            read = torch.baddbmm(read, of_block, block)
        return read.view(n_rows, n_heads, width)

    def seen_keys(self, layer: int) -> Tensor:
        """Return the keys ``[B, H, k, d]`` of the places up to the last that any row sees, sinks first."""
        return torch.cat([keys for keys, _ in self._blocks.seen(layer, self._end)], 2)


def _joined(parts: Sequence[Tensor], dim: int = -2) -> Tensor:
    """Concatenate ``parts``, without a copy if there is only one."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
