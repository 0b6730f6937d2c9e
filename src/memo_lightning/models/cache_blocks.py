"""Storage of cached keys and values in blocks, so that a cache can grow without being copied."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from memo_lightning.models.attention import KeysValues

# Places in a block. A CPU reads a few large blocks as fast as one tensor. On a GPU, copying memory takes less time than
# launching the read of one more tensor, so one block holds all places.
BLOCK_SIZE = 1024
_UNBOUNDED = sys.maxsize


class Placement(NamedTuple):
    """The tokens of a pass that go to one block, and their places there.

    Attributes:
        block: number of the block.
        tokens: an index into the pass's ``[b, H, t, d]``.
        places: the matching index into the block's ``[B, H, n, d]``.
    """

    block: int
    tokens: tuple[Any, ...]
    places: tuple[Any, ...]


class CacheBlocks:
    """Keys and values of all layers, held in TensorDicts at places ``0, 1, ...`` of every row.

    A layer's places lie in blocks ``[B, H, n, d]``. All have the same size except the last, which is only as long as
    has been asked for; when the cache grows, no other block is copied.

    Args:
        keys: the blocks of each layer, in order; layers and blocks are named by their numbers.
        values: likewise.

    Attributes:
        n_rows: number of rows B.
        n_heads: attention heads H.
        head_dim: width d of a head.
        n_layers: number of layers.
        dtype: dtype of keys and values.
        device: device of keys and values.
    """

    def __init__(self, keys: TensorDict, values: TensorDict) -> None:
        self._parts = (keys, values)
        self._layers = self._listed()
        first, *others = self._layers[0][0]
        self.n_rows, self.n_heads, held, self.head_dim = first.shape
        self.n_layers, self.dtype, self.device = len(self._layers), first.dtype, first.device
        size = BLOCK_SIZE if self.device.type == "cpu" else _UNBOUNDED
        self._size = held if others else max(size, held)  # kept as it is if the state comes from another device

    @staticmethod
    def allocate(first: Tensor, n_layers: int) -> TensorDict:
        """Return the keys or values of ``n_layers`` layers, as one block of zeros like ``first [B, H, n, d]`` each."""
        # Zeros, not empty: a masked place has weight 0, and 0 times an accidental NaN would still be NaN.
        layers: dict[str, Any] = {str(layer): {"0": torch.zeros_like(first)} for layer in range(n_layers)}
        return TensorDict(layers, [first.shape[0]])

    @property
    def n_places(self) -> int:
        """The number of places allocated for every row."""
        keys, _ = self._layers[0]
        return (len(keys) - 1) * self._size + keys[-1].shape[2]

    def extend(self, n: int) -> None:
        """Add ``n`` places to every row, one layer at a time, so that little extra memory is needed meanwhile."""
        for layers in self._parts:
            for blocks in layers.values():
                self._extend(blocks, n)
        self._layers = self._listed()

    def _extend(self, blocks: TensorDict, n: int) -> None:
        n_blocks = len(blocks.keys())
        last = blocks[str(n_blocks - 1)]
        rows, heads, held, width = last.shape
        longer = min(held + n, self._size)
        if longer > held:
            blocks[str(n_blocks - 1)] = F.pad(last, (0, 0, 0, longer - held))
        n -= longer - held
        for number, first in enumerate(range(0, n, self._size), start=n_blocks):
            blocks[str(number)] = last.new_zeros(rows, heads, min(n - first, self._size), width)

    def _listed(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Return the blocks of keys and of values, layer by layer."""
        keys, values = ([list(blocks.values()) for blocks in layers.values()] for layers in self._parts)
        return list(zip(keys, values, strict=True))

    def seen(self, layer: int, n: int, rows: Tensor | None = None) -> list[KeysValues]:
        """Return the keys and values ``[b, H, k, d]`` at the first ``n`` places of a layer, block by block.

        Args:
            layer: number of the layer.
            n: number of places.
            rows: int64 ``[b]``, the rows to return, as copies; None for all rows, without a copy.
        """
        parts = []
        index = None if rows is None else rows.to(self.device, non_blocking=True)
        for first, *blocks in zip(range(0, n, self._size), *self._layers[layer], strict=False):
            keys, values = (block[:, :, : n - first] for block in blocks)
            parts.append((keys, values) if index is None else (keys[index], values[index]))
        return parts

    def consecutive(self, first: Tensor, length: int, rows: Tensor | None = None) -> list[Placement]:
        """Return where the tokens of a pass ``[b, length]`` go, each row's in consecutive places.

        Args:
            first: int64 ``[b]`` on the CPU, the place of each row's first token.
            length: number of tokens per row.
            rows: int64 ``[b]`` on the CPU, the cache rows of the pass; None for all.
        """
        start, end, whole = int(first[0]), int(first[0]) + length, slice(None)
        if rows is not None or bool((first != start).any()):
            if rows is None:
                rows = torch.arange(len(first))
            number = int(first.min()) // self._size
            if length == 1 and int(first.max()) // self._size == number:  # one step, in few operations
                row, slot = (index.to(self.device, non_blocking=True) for index in (rows, first - number * self._size))
                target = (row, whole, slot)
                return [Placement(number, (whole, whole, 0), target)]
            times = torch.arange(length).expand(len(first), -1)
            of_pass = torch.arange(len(first)).repeat_interleave(length)
            return self.scattered(of_pass, times.flatten(), rows[of_pass], (first[:, None] + times).flatten())
        if start // self._size == (end - 1) // self._size:
            number, place = divmod(start, self._size)
            return [Placement(number, (...,), (whole, whole, slice(place, place + length)))]
        placements = []
        for number in range(start // self._size, -(-end // self._size)):
            offset = number * self._size
            low, high = max(start, offset), min(end, offset + self._size)
            tokens, places = slice(low - start, high - start), slice(low - offset, high - offset)
            placements.append(Placement(number, (whole, whole, tokens), (whole, whole, places)))
        return placements

    def scattered(self, of_pass: Tensor, times: Tensor, of_cache: Tensor, places: Tensor) -> list[Placement]:
        """Return where individual tokens of a pass go; all arguments are int64 ``[n]`` on the CPU.

        Args:
            of_pass: the tokens' rows in the pass.
            times: the tokens' indices within those rows.
            of_cache: the cache rows that they go to.
            places: the places that they go to.
        """
        blocks, low, high = places // self._size, int(places.min()) // self._size, int(places.max()) // self._size
        placements = []
        for number in range(low, high + 1):
            here = slice(None) if low == high else (blocks == number).nonzero().squeeze(1)
            row, time, target, place = (
                index[here].to(self.device, non_blocking=True)
                for index in (of_pass, times, of_cache, places - number * self._size)
            )
            placements.append(Placement(number, (row, slice(None), time), (target, slice(None), place)))
        return placements

    def store(self, layer: int, placements: list[Placement], keys: Tensor, values: Tensor) -> None:
        """Store a layer's keys and values ``[b, H, t, d]`` of the tokens of a pass."""
        for blocks, new in zip(self._layers[layer], (keys, values), strict=True):
            for number, tokens, places in placements:
                blocks[number][places] = new[tokens].to(self.dtype)
