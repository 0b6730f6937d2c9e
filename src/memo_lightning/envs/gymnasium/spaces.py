"""Gymnasium spaces as TorchRL specs: which entries an observation has, and what an action is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from numpy.typing import NDArray
from torchrl.data import Bounded, Categorical, MultiCategorical, TensorSpec, Unbounded

from memo_lightning.envs.reports import REPORTS
from memo_lightning.errors import UserError, require

# Bounds beyond this stand for "no bound", as in CartPole's velocities.
UNBOUNDED = 1e6
RESERVED = {*REPORTS, "action", "done", "is_init", "previous_step", "reset", "reward", "terminated", "truncated"}


@dataclass(frozen=True)
class Entry:
    """One entry of an observation: where Gymnasium has it, and how it is stored for one row.

    Discrete values are int64 from 0, pictures uint8 ``[H, W, C]``, everything else a float32 vector.

    Attributes:
        name: its key in the TensorDict.
        path: keys and indices that lead to it in the observation.
        space: its Gymnasium space.
    """

    name: str
    path: tuple[str | int, ...]
    space: Space

    @cached_property
    def is_image(self) -> bool:
        """Whether it is a picture: uint8 with two or three dimensions."""
        return isinstance(self.space, spaces.Box) and self.space.dtype == np.uint8 and len(self.space.shape) in (2, 3)

    @cached_property
    def is_discrete(self) -> bool:
        """Whether it is one or several numbers of a choice."""
        return isinstance(self.space, spaces.Discrete | spaces.MultiDiscrete)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape as stored."""
        assert self.space.shape is not None
        if self.is_image:
            height, width, channels = (*self.space.shape, 1)[:3]
            return (width, channels, height) if self._channels_first else (height, width, channels)
        return () if isinstance(self.space, spaces.Discrete) else (int(np.prod(self.space.shape)),)

    @cached_property
    def dtype(self) -> type[np.generic]:
        """Dtype as stored."""
        return np.uint8 if self.is_image else np.int64 if self.is_discrete else np.float32

    @cached_property
    def _channels_first(self) -> bool:
        shape = self.space.shape
        return self.is_image and shape is not None and len(shape) == 3 and shape[0] <= 4 < shape[2]

    def spec(self, n_envs: int, device: torch.device) -> TensorSpec:
        """Return the spec of ``n_envs`` rows."""
        shape = (n_envs, *self.shape)
        if isinstance(self.space, spaces.Discrete):
            return Categorical(int(self.space.n), shape=shape, device=device)
        if isinstance(self.space, spaces.MultiDiscrete):
            return MultiCategorical(self.space.nvec.reshape(-1).tolist(), shape=shape, device=device)
        if isinstance(self.space, spaces.Box):
            low, high = (
                torch.from_numpy(np.reshape(b, -1).astype(np.float32)) for b in (self.space.low, self.space.high)
            )
            if self.is_image:
                return Bounded(0, 255, shape, dtype=torch.uint8, device=device)
            if low.abs().max() < UNBOUNDED and high.abs().max() < UNBOUNDED:
                return Bounded(low.expand(shape).clone(), high.expand(shape).clone(), shape, device=device)
        return Unbounded(shape, device=device)

    def read(self, observation: Any) -> NDArray:
        """Return the entry of an observation, as it is stored.

        Raises:
            UserError: if the observation lacks the entry, or it is not what its space says.
        """
        value = observation
        for part in self.path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                raise UserError(f"the observation lacks {self.name!r}; its space has it") from None
        value = np.asarray(value)
        if value.shape != self.space.shape:
            raise UserError(f"observation {self.name!r} has shape {value.shape}; its space says {self.space.shape}")
        if self.is_image:
            if value.dtype != np.uint8:
                raise UserError(f"observation {self.name!r} has dtype {value.dtype}; its space says uint8")
            value = np.moveaxis(value, 0, -1) if self._channels_first else value
        elif value.dtype.kind not in "biuf":
            raise UserError(f"observation {self.name!r} has dtype {value.dtype}; its space says {self.space.dtype}")
        elif self.is_discrete:
            value = value - self.space.start  # type: ignore[attr-defined]
            limit = self.space.n if isinstance(self.space, spaces.Discrete) else self.space.nvec  # type: ignore[attr-defined]
            if (value < 0).any() or (value >= limit).any():
                raise UserError(f"observation {self.name!r} is {value}; its space says {self.space}")
        return value.reshape(self.shape)


def observation_entries(space: Space, ignore: Sequence[str] = ()) -> list[Entry]:
    """Return the entries of an observation space: ``observation``, or one for each part of a Dict or Tuple.

    Args:
        space: a Box, Discrete, MultiDiscrete or MultiBinary space, or a Dict or Tuple of such, at any depth.
        ignore: names of entries to leave out.

    Raises:
        UserError: if a part is of another kind, has a name that means something else, or there is none.
    """
    entries = list(_walk(space, (), "" if isinstance(space, spaces.Dict) else "observation"))
    names = [entry.name for entry in entries]
    for name in ignore:
        require(name in names, "env.ignore", list(ignore), f"among the entries of the observation, {', '.join(names)}")
    entries = [entry for entry in entries if entry.name not in ignore]
    require(bool(entries), "env.ignore", list(ignore), "such that something is left to observe")
    for entry in entries:
        if not isinstance(entry.space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise UserError(
                f"observation {entry.name!r} is a {type(entry.space).__name__} space, which cannot be encoded; "
                f"leave it out with env.ignore=[{entry.name}], or turn it into a Box with a wrapper in env.wrappers"
            )
        if entry.name in RESERVED or names.count(entry.name) > 1:
            raise UserError(f"observation {entry.name!r}: the name is taken; rename it with a wrapper in env.wrappers")
    return entries


def _walk(space: Space, path: tuple[str | int, ...], name: str) -> Iterator[Entry]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _walk(part, (*path, key), f"{name}_{key}" if name else str(key))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _walk(part, (*path, index), f"{name}_{index}")
    else:
        yield Entry(name, path, space)


@dataclass(frozen=True)
class Action:
    """What one row does in a step.

    Attributes:
        space: a Discrete, MultiDiscrete, MultiBinary or bounded Box space.
    """

    space: Space

    def __post_init__(self) -> None:
        if isinstance(self.space, spaces.Box):
            if not (np.isfinite(self.space.low).all() and np.isfinite(self.space.high).all()):
                raise UserError(
                    f"action space {self.space}: must have finite bounds; set them with a wrapper in env.wrappers, "
                    f"e.g. gymnasium.wrappers.RescaleAction"
                )
        elif not isinstance(self.space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise UserError(
                f"action space {type(self.space).__name__}: must be Discrete, MultiDiscrete, MultiBinary or a bounded "
                f"Box; flatten it with a wrapper in env.wrappers"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as stored: flat."""
        assert self.space.shape is not None
        return self.space.shape if isinstance(self.space, spaces.Discrete) else (int(np.prod(self.space.shape)),)

    @property
    def dtype(self) -> type[np.generic]:
        """Dtype as stored."""
        return np.float32 if isinstance(self.space, spaces.Box) else np.int64

    def spec(self, n_envs: int, device: torch.device) -> TensorSpec:
        """Return the spec of ``n_envs`` rows."""
        shape = (n_envs, *self.shape)
        if isinstance(self.space, spaces.Box):
            low, high = (
                torch.from_numpy(np.reshape(b, -1).astype(np.float32)) for b in (self.space.low, self.space.high)
            )
            return Bounded(low.expand(shape).clone(), high.expand(shape).clone(), shape, device=device)
        if isinstance(self.space, spaces.Discrete):
            return Categorical(int(self.space.n), shape=shape, device=device)
        values = self.space.nvec.reshape(-1) if isinstance(self.space, spaces.MultiDiscrete) else np.full(self.shape, 2)
        return MultiCategorical(values.tolist(), shape=shape, device=device)

    def to_env(self, stored: NDArray) -> Any:
        """Return a stored action as the environment takes it, the nearest whole numbers in a Box of integers."""
        if isinstance(self.space, spaces.Discrete):
            return int(stored) + int(self.space.start)
        assert self.space.shape is not None
        assert self.space.dtype is not None
        if self.space.dtype.kind in "iu":
            stored = np.rint(stored)
        value = stored.reshape(self.space.shape).astype(self.space.dtype)
        return value + self.space.start if isinstance(self.space, spaces.MultiDiscrete) else value
