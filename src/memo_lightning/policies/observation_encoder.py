"""An encoder for any observation: each key is encoded according to its kind, and the results are summed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, TensorSpec

from memo_lightning.errors import UserError
from memo_lightning.policies.encoders import Encoder, name_of, shape_of
from memo_lightning.policies.image_encoder import ImageEncoder


class ObservationEncoder(Encoder):
    """The sum of the encodings of all observation keys.

    Vectors are concatenated and projected linearly; bounded ones are first scaled to [-1, 1]. Discrete values are
    embedded. Images (uint8 ``[H, W, C]``) go through a small CNN. With unbounded vectors only, it is the same as
    :class:`~memo_lightning.policies.encoders.VectorEncoder`.

    Args:
        observed: see :class:`Encoder`.
        d_model: width of the output.
        in_keys: keys to read; by default all that are available.
        checkpoint_steps: see :class:`Encoder`.

    Raises:
        UserError: if a key is missing, or of a kind that cannot be encoded.
    """

    scale: Tensor
    offset: Tensor

    def __init__(
        self,
        observed: Composite,
        d_model: int,
        in_keys: Sequence[str] | None = None,
        *,
        checkpoint_steps: int | None = None,
    ) -> None:
        super().__init__(observed, in_keys, checkpoint_steps=checkpoint_steps)
        self._vectors: list[NestedKey] = []
        self._encoded: list[NestedKey] = []  # in the order of `parts`; users' names may be invalid for modules
        self.parts = nn.ModuleList()
        scales, offsets = [], []
        for key in self.in_keys:
            spec = observed[key]
            shape = shape_of(spec, observed)
            if isinstance(spec, Categorical | MultiCategorical) and not isinstance(spec, Binary):
                self._encoded.append(key)
                self.parts.append(_Embeddings(spec, d_model))
            elif spec.dtype == torch.uint8 and len(shape) == 3:
                self._encoded.append(key)
                self.parts.append(ImageEncoder(shape, d_model))
            elif len(shape) == 1:
                self._vectors.append(key)
                scale, offset = _scaling(spec, len(observed.shape))
                scales.append(scale)
                offsets.append(offset)
            else:
                raise UserError(
                    f"encoder.in_keys: {name_of(key)!r} has shape {shape} and dtype {spec.dtype}; must be a vector, a "
                    f"discrete value, or an image (uint8 [H, W, C])"
                )
        if self._vectors:
            self.register_buffer("scale", torch.cat(scales), persistent=False)
            self.register_buffer("offset", torch.cat(offsets), persistent=False)
            self.projection = nn.Linear(len(self.scale), d_model)

    def forward(self, tensordict: TensorDictBase) -> Tensor:
        """Encode all keys and sum the encodings."""
        encoded = [part(tensordict.get(key)) for key, part in zip(self._encoded, self.parts, strict=True)]
        if self._vectors:
            vectors = torch.cat([tensordict.get(key).to(self.scale.dtype) for key in self._vectors], -1)
            encoded.append(self.projection((vectors - self.offset) * self.scale))
        return torch.stack(encoded).sum(0) if len(encoded) > 1 else encoded[0]


class _Embeddings(nn.Module):
    """The embedding of one discrete value ``[*batch]``, or the sum of the embeddings of several ``[*batch, k]``."""

    first: Tensor

    def __init__(self, spec: Categorical | MultiCategorical, d_model: int) -> None:
        super().__init__()
        self._several = isinstance(spec, MultiCategorical)
        sizes = spec.nvec.reshape(-1, spec.nvec.shape[-1])[0] if self._several else torch.tensor([spec.n])
        self.embedding = nn.Embedding(int(sizes.sum()), d_model)
        self.register_buffer("first", (sizes.cumsum(0) - sizes).cpu(), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        values = values if self._several else values.unsqueeze(-1)
        return self.embedding(values + self.first).sum(-2)


def _scaling(spec: TensorSpec, n_batch_dims: int) -> tuple[Tensor, Tensor]:
    """Return the factor and offset ``[size]`` that map the bounds of a vector to -1 and 1."""
    size = spec.shape[-1]
    if not isinstance(spec, Bounded):
        return torch.ones(size), torch.zeros(size)
    low, high = (bound[(0,) * n_batch_dims].float().cpu() for bound in (spec.space.low, spec.space.high))
    return 2 / (high - low).clamp(min=1e-6), (high + low) / 2
