"""An encoder for whatever an environment shows: each entry in its own way, added up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, TensorSpec

from memo_lightning.errors import UserError
from memo_lightning.policies.encoders import Encoder, observed_keys
from memo_lightning.policies.image_encoder import ImageEncoder


class EntryEncoder(Encoder):
    """Adds up the encodings of all entries.

    Vectors are concatenated and projected linearly, those with bounds scaled by them to [-1, 1]; choices are
    looked up in tables of embeddings; pictures (uint8 ``[H, W, C]``) go through a small CNN. Where there are
    only unbounded vectors it is the same as :class:`~memo_lightning.policies.encoders.VectorEncoder`.

    Args:
        observation_spec: what a policy may read, as :func:`~memo_lightning.envs.reports.observed_spec` returns it.
        d_model: width of the output.
        in_keys: entries to read; by default all that the environment observes.

    Raises:
        UserError: if an entry is missing, or of a kind that cannot be encoded.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, observation_spec: Composite, d_model: int, in_keys: Sequence[str] | None = None) -> None:
        super().__init__(observed_keys(observation_spec, in_keys))
        n_batch_dims = len(observation_spec.shape)
        self._vectors: list[str] = []
        self.images, self.tables = nn.ModuleDict(), nn.ModuleDict()
        scales, offsets = [], []
        for key in self.in_keys:
            spec = observation_spec[key]
            shape = spec.shape[n_batch_dims:]
            if isinstance(spec, Categorical) and not isinstance(spec, Binary):
                self.tables[key] = _Table(spec, d_model)
            elif spec.dtype == torch.uint8 and len(shape) == 3:
                self.images[key] = ImageEncoder(tuple(shape), d_model)
            elif len(shape) == 1:
                self._vectors.append(key)
                scale, offset = _scaling(spec, n_batch_dims)
                scales.append(scale)
                offsets.append(offset)
            else:
                raise UserError(
                    f"encoder.in_keys={self.in_keys}: {key!r} has shape {tuple(shape)} and dtype {spec.dtype}; "
                    f"must be a vector, a choice, or a picture (uint8 [H, W, C])"
                )
        if self._vectors:
            self.register_buffer("scale", torch.cat(scales), persistent=False)
            self.register_buffer("offset", torch.cat(offsets), persistent=False)
            self.projection = nn.Linear(len(self.scale), d_model)

    def forward(self, tensordict: TensorDictBase) -> Tensor:
        """Encode all entries and add them up."""
        parts = [module(tensordict.get(key)) for key, module in (*self.images.items(), *self.tables.items())]
        if self._vectors:
            vectors = torch.cat([tensordict.get(key).to(self.scale.dtype) for key in self._vectors], -1)
            parts.append(self.projection((vectors - self.offset) * self.scale))
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


class _Table(nn.Module):
    """Embeddings of one choice ``[*batch]``, or the sum of those of several ``[*batch, k]``."""

    first: Tensor

    def __init__(self, spec: Categorical, d_model: int) -> None:
        super().__init__()
        self._several = isinstance(spec, MultiCategorical)
        sizes = spec.nvec.reshape(-1, spec.nvec.shape[-1])[0] if self._several else torch.tensor([spec.n])
        self.embedding = nn.Embedding(int(sizes.sum()), d_model)
        self.register_buffer("first", (sizes.cumsum(0) - sizes).cpu(), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        values = values if self._several else values.unsqueeze(-1)
        return self.embedding(values + self.first).sum(-2)


def _scaling(spec: TensorSpec, n_batch_dims: int) -> tuple[Tensor, Tensor]:
    """Return factor and offset ``[size]`` that take the bounds of a vector to -1 and 1."""
    size = spec.shape[-1]
    if not isinstance(spec, Bounded):
        return torch.ones(size), torch.zeros(size)
    low, high = (bound[(0,) * n_batch_dims].float().cpu() for bound in (spec.space.low, spec.space.high))
    return 2 / (high - low).clamp(min=1e-6), (high + low) / 2
