"""Observation encoders, which map the observation of one time step to a vector of the sequence model's width."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchrl.data import Composite, TensorSpec

from memo_lightning.errors import UserError, require
from memo_lightning.policies.previous_step import PREVIOUS_STEP

OBSERVATION = "observation"


class Encoder(nn.Module, ABC):
    """Base class of encoders, which map the observation of a time step to one vector.

    Users choose the names of observations. In a TensorDict they are nested under ``"observation"``, so they cannot
    clash with other keys.

    Args:
        observed: specs of everything a policy may read: ``observation``, a Composite with one spec per observation
            key, and ``previous_step``, the RL^2 inputs; all ``[N, ...]``.
        names: observation keys to read, and ``previous_step``; None for all that are available.
        checkpoint_steps: time steps to encode at once (activation checkpointing). They are encoded again in the
            backward pass, so that an update keeps the activations of only this many; None for all steps at once.

    Attributes:
        keys: observation keys that are read.
        reads_previous_step: whether the RL^2 inputs are read too.
        in_keys: TensorDict keys of everything that is read.

    Raises:
        UserError: if a name is unknown, there is nothing to read, or ``checkpoint_steps`` is not positive.
    """

    def __init__(
        self, observed: Composite, names: Sequence[str] | None, *, checkpoint_steps: int | None = None
    ) -> None:
        super().__init__()
        is_positive = checkpoint_steps is None or checkpoint_steps >= 1
        require(is_positive, "encoder.checkpoint_steps", checkpoint_steps, "at least 1, or null")
        self.checkpoint_steps = checkpoint_steps
        require(not isinstance(names, str), "encoder.in_keys", names, f"a list of keys, e.g. [{names}]")
        known = sorted(observed[OBSERVATION].keys()) if OBSERVATION in observed.keys() else []
        available = PREVIOUS_STEP in observed.keys()
        if names is None:
            self.keys, self.reads_previous_step = known, available
        else:
            self.keys = [name for name in names if name in known]
            self.reads_previous_step = available and PREVIOUS_STEP in names and PREVIOUS_STEP not in known
            offered = [*known, *([PREVIOUS_STEP] if available else [])]
            for name in names:
                if name not in offered:
                    raise UserError(
                        f"encoder.in_keys={list(names)}: the environment has no {name!r}; must be among "
                        f"{', '.join(offered)}"
                    )
        self.in_keys: list[NestedKey] = [(OBSERVATION, name) for name in self.keys]
        self.in_keys += [PREVIOUS_STEP] if self.reads_previous_step else []
        if not self.in_keys:
            offered = [*known, *([PREVIOUS_STEP] if available else [])]
            allowed = f"some of {', '.join(offered)}" if offered else "observation keys, but the environment has none"
            raise UserError(f"encoder.in_keys=[]: must name {allowed}")

    @abstractmethod
    def forward(self, tensordict: TensorDictBase) -> Tensor:
        """Encode policy inputs of any batch size as ``[*batch, d_model]``."""

    def encode_sequences(
        self, encode: Callable[[TensorDictBase], Tensor], sequences: TensorDictBase, gradient_from: int = 0
    ) -> Tensor:
        """Encode sequences ``[B, T]`` as ``[B, T, d_model]``, ``checkpoint_steps`` steps at a time.

        Args:
            encode: function that is applied to each part: this encoder and what precedes it.
            sequences: policy inputs ``[B, T]``.
            gradient_from: the first step that is encoded with gradient.
        """
        older, newer = sequences[:, :gradient_from], sequences[:, gradient_from:]
        if self.checkpoint_steps is None:
            parts = [encode(newer)]
        elif torch.is_grad_enabled():
            parts = [checkpoint(encode, part, use_reentrant=False) for part in newer.split(self.checkpoint_steps, 1)]
        else:
            parts = [encode(part) for part in newer.split(self.checkpoint_steps, dim=1)]
        if gradient_from:
            with torch.no_grad():
                parts.insert(0, self.encode_sequences(encode, older))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


class VectorEncoder(Encoder):
    """A linear projection of concatenated vectors.

    Args:
        observed: see :class:`Encoder`.
        d_model: width of the output.
        in_keys: keys to read, each ``[N, size]``; see :class:`Encoder`.
        checkpoint_steps: see :class:`Encoder`.

    Raises:
        UserError: if a key is missing or is not a vector.
    """

    def __init__(
        self,
        observed: Composite,
        d_model: int,
        in_keys: Sequence[str] | None = None,
        *,
        checkpoint_steps: int | None = None,
    ) -> None:
        super().__init__(observed, in_keys, checkpoint_steps=checkpoint_steps)
        size = 0
        for key in self.in_keys:
            shape = shape_of(observed[key], observed)
            if len(shape) != 1:
                raise UserError(f"encoder.in_keys={in_keys}: {name_of(key)!r} has shape {shape}; must be a vector")
            size += shape[0]
        self.projection = nn.Linear(size, d_model)

    def forward(self, tensordict: TensorDictBase) -> Tensor:
        """Project the concatenated vectors."""
        return self.projection(torch.cat([tensordict.get(key) for key in self.in_keys], -1))


def shape_of(spec: TensorSpec, observed: Composite) -> tuple[int, ...]:
    """Return the shape of ``spec``, one of those in ``observed``, without the batch dimensions."""
    return tuple(spec.shape[len(observed.shape) :])


def name_of(key: NestedKey) -> str:
    """Return the name of a key in messages, which is the user's name for it."""
    return key if isinstance(key, str) else key[-1]
