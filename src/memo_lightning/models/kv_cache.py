"""Keys and values while acting: one growing buffer per layer, one length per row."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor


class KVCache:
    """The keys and values of every row's tokens, at slots ``0 .. length - 1``, held in a state TensorDict.

    Rows have lengths of their own, so they can be reset, and can reach segment boundaries, at different steps.
    Writing past the capacity grows the buffers to exactly what is needed, rounded up to ``growth`` slots, one
    layer at a time, so that at no moment much more is allocated than is held.

    Args:
        state: TensorDict with nested ``keys`` and ``values``, one ``[B, H, capacity, d]`` tensor per layer.
        growth: slots by which buffers grow.
    """

    def __init__(self, state: TensorDict, growth: int) -> None:
        self._keys, self._values = state["keys"], state["values"]
        self.growth = growth

    @staticmethod
    def allocate(
        batch_size: int, n_layers: int, n_heads: int, capacity: int, head_dim: int, like: Tensor
    ) -> dict[str, TensorDict]:
        """Return the empty ``keys`` and ``values`` of a state, of the dtype and on the device of ``like``."""
        # Zeros, not empty: a masked slot has weight 0, and 0 times an accidental NaN would still be NaN.
        shape = (batch_size, n_heads, capacity, head_dim)
        return {
            name: TensorDict({str(layer): like.new_zeros(shape) for layer in range(n_layers)}, [batch_size])
            for name in ("keys", "values")
        }

    @property
    def capacity(self) -> int:
        """Slots that are allocated for every row."""
        return self._keys["0"].shape[2]

    def reserve(self, slots: int) -> None:
        """Make room for ``slots`` slots in every row."""
        if slots <= self.capacity:
            return
        extra = -(-(slots - self.capacity) // self.growth) * self.growth
        for buffers in (self._keys, self._values):
            for layer, buffer in buffers.items():
                buffers[layer] = torch.nn.functional.pad(buffer, (0, 0, 0, extra))

    def writer(self, slots: Tensor, rows: Tensor | None, device: torch.device) -> CacheWriter:
        """Return the context of one pass that stores its tokens and attends to everything up to them.

        Args:
            slots: int64 ``[b]`` on the CPU, the first slot each row of the pass writes to.
            rows: int64 ``[b]``, the cache rows that take part; all of them when None.
            device: where the masks are needed.
        """
        return CacheWriter(self._keys, self._values, slots, rows, device)


class CacheWriter:
    """Stores a pass's keys and values in the cache, and attends to every slot up to each token's own."""

    def __init__(
        self, keys: TensorDict, values: TensorDict, slots: Tensor, rows: Tensor | None, device: torch.device
    ) -> None:
        self._keys, self._values, self._rows = keys, values, rows
        self._last = int(slots.max())
        self._in_lockstep = bool((slots == self._last).all())
        self._first_slots = slots.to(device, non_blocking=True)

    def positions_and_mask(self, length: int) -> tuple[Tensor, Tensor | None]:
        """Return slots ``[t]`` or ``[b, 1, t]`` and, where rows differ, the mask ``[b, 1, t, k]``."""
        device = self._first_slots.device
        if self._in_lockstep:  # every row at the same slot: no mask, no gather
            return torch.arange(self._last, self._last + length, device=device), None
        slots = self._first_slots[:, None] + torch.arange(length, device=device)  # (b, t)
        seen = torch.arange(self._last + length, device=device) <= slots[:, None, :, None]  # (b, 1, t, k)
        return slots[:, None], seen

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~memo_lightning.models.transformer.Context`."""
        return self._extend(self._keys[str(layer)], keys), self._extend(self._values[str(layer)], values)

    def _extend(self, buffer: Tensor, new: Tensor) -> Tensor:
        length = new.shape[2]
        end = self._last + length
        if self._in_lockstep and self._rows is None:
            buffer[:, :, self._last : end] = new
            return buffer[:, :, :end]
        rows = torch.arange(buffer.shape[0], device=buffer.device) if self._rows is None else self._rows
        slots = self._first_slots[:, None] + torch.arange(length, device=buffer.device)
        buffer[rows[:, None], :, slots] = new.transpose(1, 2).to(buffer.dtype)
        return buffer[:, :, :end] if self._rows is None else buffer[rows, :, :end]
