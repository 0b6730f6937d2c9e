"""Gymnasium spaces: conversion to and from TorchRL specs, and to and from plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torchrl.data import Binary, Bounded, Categorical, MultiCategorical, TensorSpec

from memo_lightning.errors import UserError


def bounds(space: spaces.Box) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the lower and upper bounds of a Box, flattened to float32 ``[D]`` each."""
    low, high = (torch.from_numpy(np.reshape(bound, -1).astype(np.float32)) for bound in (space.low, space.high))
    return low, high


def discrete_spec(space: Space, shape: tuple[int, ...], device: torch.device | str) -> TensorSpec:
    """Return the spec of one or several discrete values from ``space``, stored with ``shape``."""
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n), shape=shape, device=device)
    nvec = space.nvec.reshape(-1).tolist() if isinstance(space, spaces.MultiDiscrete) else [2] * shape[-1]
    return MultiCategorical(nvec, shape=shape, device=device)


def space_of(spec: TensorSpec, n_batch_dims: int) -> Space:
    """Return the Gymnasium space of one environment, given the spec of a batch of them."""
    shape = tuple(spec.shape[n_batch_dims:])
    if isinstance(spec, MultiCategorical):
        return spaces.MultiDiscrete(spec.nvec.reshape(-1, spec.nvec.shape[-1])[0].cpu().numpy())
    if isinstance(spec, Binary) or (spec.dtype == torch.bool and not isinstance(spec, Categorical)):
        return spaces.MultiBinary(shape)
    if isinstance(spec, Categorical):
        return spaces.Discrete(int(spec.n))
    dtype = np.uint8 if spec.dtype == torch.uint8 else np.float32
    if isinstance(spec, Bounded):
        first = (0,) * n_batch_dims
        low, high = (bound[first].cpu().numpy().astype(dtype) for bound in (spec.space.low, spec.space.high))
        return spaces.Box(low, high, shape, dtype)
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def space_to_plain(space: Space) -> dict[str, Any]:
    """Convert a space to strings, numbers, lists and dictionaries."""
    if isinstance(space, spaces.Box):
        dtype = str(space.dtype)
        kind = float if space.dtype.kind == "f" else int
        low, high = ([kind(v) for v in bound.reshape(-1)] for bound in (space.low, space.high))
        return {"kind": "box", "shape": list(space.shape), "dtype": dtype, "low": _short(low), "high": _short(high)}
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        dtype = str(space.dtype)
        return {"kind": "multi_discrete", "nvec": space.nvec.tolist(), "start": space.start.tolist(), "dtype": dtype}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "multi_binary", "n": space.n if isinstance(space.n, int) else list(space.n)}
    if isinstance(space, spaces.Dict):
        return {"kind": "dict", "spaces": [[str(key), space_to_plain(part)] for key, part in space.spaces.items()]}
    assert isinstance(space, spaces.Tuple), type(space)
    return {"kind": "tuple", "spaces": [space_to_plain(part) for part in space.spaces]}


def space_from_plain(plain: Mapping[str, Any]) -> Space:
    """Rebuild a space from the output of :func:`space_to_plain`."""
    match plain["kind"]:
        case "box":
            shape, dtype = tuple(plain["shape"]), np.dtype(plain["dtype"])
            low, high = (
                np.broadcast_to(np.asarray(plain[end], dtype), (int(np.prod(shape)),)).reshape(shape)
                for end in ("low", "high")
            )
            return spaces.Box(low, high, shape, dtype.type)
        case "discrete":
            return spaces.Discrete(plain["n"], start=plain["start"])
        case "multi_discrete":
            nvec, start = np.array(plain["nvec"]), np.array(plain["start"])
            return spaces.MultiDiscrete(nvec, np.dtype(plain["dtype"]).type, start=start)
        case "multi_binary":
            return spaces.MultiBinary(plain["n"])
        case "dict":
            # Pairs, because Dict would sort the keys of a mapping.
            return spaces.Dict([(key, space_from_plain(part)) for key, part in plain["spaces"]])
        case "tuple":
            return spaces.Tuple([space_from_plain(part) for part in plain["spaces"]])
        case kind:
            raise UserError(
                f"space of kind {kind!r}: must be box, discrete, multi_discrete, multi_binary, dict or tuple"
            )


def _short(values: list[Any]) -> list[Any]:
    """Return a single value if all are equal, as the bounds of images usually are."""
    return values[:1] if len(set(values)) == 1 else values
