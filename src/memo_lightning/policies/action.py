"""The action of an environment: its space, how it is stored, and which actions are allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from numpy.typing import NDArray
from torchrl.data import Binary, Bounded, Categorical, MultiCategorical, OneHot, TensorSpec

from memo_lightning.errors import UserError
from memo_lightning.policies.spaces import bounds, discrete_spec, space_of

ACTION_MASK = "action_mask"  # in an observation or in `info`, by the convention of Gymnasium and PettingZoo


@dataclass(frozen=True)
class Action:
    """The action of one environment.

    Attributes:
        space: a Discrete, MultiDiscrete, MultiBinary or bounded Box space.
        masked: whether the environment says at every step which actions are allowed.

    Raises:
        UserError: if the space is of another kind, or continuous actions have a mask.
    """

    space: Space
    masked: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.space, spaces.Box):
            if not (np.isfinite(self.space.low).all() and np.isfinite(self.space.high).all()):
                raise UserError(
                    f"action space {self.space}: must have finite bounds; set them, e.g. with "
                    f"'env.wrappers=[{{_target_: memo_lightning.envs.gymnasium.BoundActions, low: -1, high: 1}}]'"
                )
        elif not isinstance(self.space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise UserError(
                f"action space {type(self.space).__name__}: must be Discrete, MultiDiscrete, MultiBinary or a bounded "
                f"Box; flatten it with a wrapper in env.wrappers"
            )
        if self.masked and isinstance(self.space, spaces.Box):
            raise UserError(f"action_mask: action space {self.space} is continuous; only discrete actions have a mask")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as stored, which is flat."""
        assert self.space.shape is not None
        return self.space.shape if isinstance(self.space, spaces.Discrete) else (int(np.prod(self.space.shape)),)

    @property
    def dtype(self) -> type[np.generic]:
        """Dtype as stored."""
        return np.float32 if isinstance(self.space, spaces.Box) else np.int64

    @property
    def n_values(self) -> list[int]:
        """Number of values of each discrete component; empty for a continuous action."""
        if isinstance(self.space, spaces.Box):
            return []
        if isinstance(self.space, spaces.Discrete):
            return [int(self.space.n)]
        if isinstance(self.space, spaces.MultiDiscrete):
            return self.space.nvec.reshape(-1).tolist()
        return [2] * self.shape[0]

    def spec(self, batch_size: Sequence[int], device: torch.device | str = "cpu") -> TensorSpec:
        """Return the spec of a batch ``[*batch_size]`` of actions."""
        shape = (*batch_size, *self.shape)
        if isinstance(self.space, spaces.Box):
            low, high = bounds(self.space)
            return Bounded(low.expand(shape).clone(), high.expand(shape).clone(), shape, device=device)
        return discrete_spec(self.space, shape, device)

    def to_env(self, stored: NDArray) -> Any:
        """Convert a stored action to the environment's format; values of an integer Box are rounded."""
        action = self.to_envs(stored[None])[0]
        return int(action) if isinstance(self.space, spaces.Discrete) else action

    def to_envs(self, stored: NDArray) -> NDArray:
        """Convert stored actions ``[N, ...]`` to the environments' format."""
        assert self.space.shape is not None
        assert self.space.dtype is not None
        if isinstance(self.space, spaces.Discrete):
            return stored + int(self.space.start)
        if self.space.dtype.kind in "iu":
            stored = np.rint(stored)
        value = stored.reshape(len(stored), *self.space.shape).astype(self.space.dtype)
        return value + self.space.start if isinstance(self.space, spaces.MultiDiscrete) else value

    def read_mask(self, mask: Any, batch_shape: tuple[int, ...] = ()) -> NDArray[np.bool_]:
        """Check an action mask and return it as bool ``[*batch_shape, sum(n_values)]``, one component after another.

        Raises:
            UserError: if it has another shape, or leaves a component without an allowed value.
        """
        value = np.asarray(mask)
        expected = (*batch_shape, sum(self.n_values))
        if value.shape != expected:
            raise UserError(f"action_mask has shape {value.shape}; must be {expected}, one value per action")
        value = value.astype(np.bool_)
        start = 0
        for component, n in enumerate(self.n_values):
            if not value[..., start : start + n].any(-1).all():
                which = f" for component {component}" if len(self.n_values) > 1 else ""
                raise UserError(f"action_mask allows no action{which}; must allow at least one")
            start += n
        return value


def action_of_spec(spec: TensorSpec, n_batch_dims: int, *, masked: bool = False) -> Action:
    """Return the action of a TorchRL environment, given its spec.

    Raises:
        UserError: if actions of this kind are not supported.
    """
    if not isinstance(spec, Categorical | MultiCategorical | Bounded) or isinstance(spec, Binary):
        hint = "; GymEnv has one with categorical_action_encoding=True" if isinstance(spec, OneHot) else ""
        raise UserError(
            f"action_spec={type(spec).__name__}: must be Categorical (one discrete action), MultiCategorical "
            f"(several) or Bounded (a vector with bounds){hint}"
        )
    return Action(space_of(spec, n_batch_dims), masked)
