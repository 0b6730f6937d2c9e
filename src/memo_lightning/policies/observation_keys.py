"""The parts of an observation: where they are found, and how they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium import Space, spaces
from numpy.typing import NDArray
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded

from memo_lightning.errors import UserError, require
from memo_lightning.policies.action import ACTION_MASK
from memo_lightning.policies.spaces import bounds, discrete_spec, space_of

# Bounds beyond this stand for "no bound", as in CartPole's velocities.
_UNBOUNDED = 1e6
# Names that cannot be keys of TorchRL's Composite; an underscore is appended.
_RESERVED = frozenset(
    ("batch_size", "cls", "data_cls", "device", "dtype", "names", "self", "shape", "space", "step_mdp_static")
)
_ENCODABLE = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
ImageLayout = Literal["channels_last", "channels_first", "vector"]
_MAX_CHANNELS = 4  # of a single image, not a stack of several


@dataclass(frozen=True)
class ObservationKey:
    """One part of an observation: where it is found, and how it is stored for one environment.

    Discrete values are stored as int64 from 0, images as uint8 ``[H, W, C]``, everything else as a float32 vector. The
    channels of stacked frames are concatenated.

    Attributes:
        name: the user's name for it, with an underscore appended if TorchRL reserves the name (e.g. ``device``). Its
            key in a TensorDict is ``("observation", name)``.
        path: keys and indices that lead to it in the observation.
        space: its Gymnasium space.
        layout: how to read a uint8 array of two to four dimensions: as an image, ``channels_last`` (``[H, W]``,
            ``[H, W, C]`` or, with frames, ``[F, H, W, C]``) or ``channels_first`` (``[C, H, W]`` or ``[F, C, H, W]``);
            or as a ``vector`` of numbers. None infers it from the shape.

    Raises:
        UserError: if the shape does not tell where the channels are, or the layout does not fit it.
    """

    name: str
    path: tuple[str | int, ...]
    space: Space
    layout: ImageLayout | None = None

    def __post_init__(self) -> None:
        shape = self.space.shape or ()
        could_be_image = isinstance(self.space, spaces.Box) and self.space.dtype == np.uint8 and len(shape) >= 2
        setting = f"env.images.{self.name}"
        if self.layout is None:
            object.__setattr__(self, "layout", _layout_of(self.name, shape) if could_be_image else "vector")
            return
        require(
            self.layout in get_args(ImageLayout), setting, self.layout, f"one of {', '.join(get_args(ImageLayout))}"
        )
        if self.layout == "vector":
            return
        fewest = 3 if self.layout == "channels_first" else 2
        require(
            could_be_image and fewest <= len(shape) <= 4,
            setting,
            self.layout,
            f"used for uint8 observations with {fewest} to 4 dimensions; this one is {self.space}",
        )

    @property
    def is_image(self) -> bool:
        """Whether it is stored as an image."""
        return self.layout != "vector"

    @cached_property
    def is_discrete(self) -> bool:
        """Whether it is one or several discrete values."""
        return isinstance(self.space, spaces.Discrete | spaces.MultiDiscrete)

    @property
    def is_vector(self) -> bool:
        """Whether it is stored as a vector of numbers."""
        return not self.is_image and not self.is_discrete

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape as stored."""
        assert self.space.shape is not None
        if self.is_image:
            frames, height, width, channels = self._image_sizes
            return height, width, frames * channels
        return () if isinstance(self.space, spaces.Discrete) else (int(np.prod(self.space.shape)),)

    @cached_property
    def dtype(self) -> type[np.generic]:
        """Dtype as stored."""
        return np.uint8 if self.is_image else np.int64 if self.is_discrete else np.float32

    @property
    def description(self) -> str:
        """How it is read, in words: ``image 84 x 84, 4 frames of 3 channels (channels_first)``."""
        if self.is_image:
            frames, height, width, channels = self._image_sizes
            of_frames = f"{frames} frames of " if len(self.space.shape or ()) == 4 else ""
            plural = "s" if channels > 1 else ""
            return f"image {height} x {width}, {of_frames}{channels} channel{plural} ({self.layout})"
        if self.is_discrete:
            return f"discrete {list(self.shape)}" if self.shape else "discrete"
        flattened = f", flattened from {list(self.space.shape or ())}" if len(self.space.shape or ()) > 1 else ""
        return f"vector {list(self.shape)}{flattened}"

    @cached_property
    def _image_sizes(self) -> tuple[int, int, int, int]:
        """Frames, height, width and channels."""
        sizes = tuple(self.space.shape or ())
        if len(sizes) == 2:
            return 1, *sizes, 1
        frames, *one = sizes if len(sizes) == 4 else (1, *sizes)
        channels, height, width = one if self.layout == "channels_first" else (one[2], *one[:2])
        return frames, height, width, channels

    def spec(self, batch_size: Sequence[int], device: torch.device | str = "cpu") -> TensorSpec:
        """Return the spec of a batch ``[*batch_size]``."""
        shape = (*batch_size, *self.shape)
        if isinstance(self.space, spaces.Box):
            if self.is_image:
                return Bounded(0, 255, shape, dtype=torch.uint8, device=device)
            low, high = bounds(self.space)
            if low.abs().max() < _UNBOUNDED and high.abs().max() < _UNBOUNDED:
                return Bounded(low.expand(shape).clone(), high.expand(shape).clone(), shape, device=device)
            return Unbounded(shape, device=device)
        if self.is_discrete:
            return discrete_spec(self.space, shape, device)
        return Unbounded(shape, device=device)

    def part_of(self, observation: Any) -> Any:
        """Return this part of an observation, unchanged.

        Raises:
            UserError: if the observation lacks it.
        """
        for part in self.path:
            try:
                observation = observation[part]
            except (KeyError, IndexError, TypeError):
                raise UserError(f"observation {self.name!r}: missing; the observation space has it") from None
        return observation

    def read(self, observation: Any, batch_shape: tuple[int, ...] = ()) -> NDArray:
        """Return this part of an observation ``[*batch_shape, ...]``, checked and as it is stored.

        Raises:
            UserError: if the observation lacks it, or it does not match its space.
        """
        value = np.asarray(self.part_of(observation))
        n_batch_dims = len(batch_shape)
        if value.shape != (*batch_shape, *(self.space.shape or ())):
            said = f"its space says {self.space.shape}"
            said += f" for each of a batch of {batch_shape[0]}" if batch_shape else ""
            raise UserError(f"observation {self.name!r} has shape {value.shape}; {said}")
        if self.is_image:
            if value.dtype != np.uint8:
                raise UserError(f"observation {self.name!r} has dtype {value.dtype}; its space says uint8")
            value = self._frames_and_channels_last(value, n_batch_dims)
        elif value.dtype.kind not in "biuf":
            raise UserError(f"observation {self.name!r} has dtype {value.dtype}; its space says {self.space.dtype}")
        elif self.is_discrete:
            if (value != np.trunc(value)).any():
                raise UserError(f"observation {self.name!r} is {value}; its space says {self.space}")
            value = value - self.space.start  # type: ignore[attr-defined]
            limit = self.space.n if isinstance(self.space, spaces.Discrete) else self.space.nvec  # type: ignore[attr-defined]
            if (value < 0).any() or (value >= limit).any():
                raise UserError(f"observation {self.name!r} is {value}; its space says {self.space}")
        return value.reshape((*batch_shape, *self.shape)).astype(self.dtype, copy=False)

    def _frames_and_channels_last(self, value: NDArray, n_batch_dims: int) -> NDArray:
        """Reorder the axes of images to H, W, F, C, omitting those that they lack."""
        if self.layout == "channels_first":
            value = np.moveaxis(value, -3, -1)
        return np.moveaxis(value, n_batch_dims, -2) if len(self.space.shape or ()) == 4 else value


def observation_keys(
    space: Space, ignore: Sequence[str] = (), images: Mapping[str, str] | None = None
) -> list[ObservationKey]:
    """Return the parts of an observation space: a single ``observation``, or one per part of a Dict or Tuple.

    An action mask is left out: a policy obeys it but does not read it.

    Args:
        space: a Box, Discrete, MultiDiscrete or MultiBinary space, or a Dict or Tuple of these, nested to any depth.
        ignore: names of parts to leave out.
        images: layouts of images by name, where the shape leaves it open; see :class:`ObservationKey`.

    Raises:
        UserError: if a part is of another kind, two have the same name, or none is left; if a name in ``ignore`` or
            ``images`` is unknown; or if the layout of an image is unclear or does not fit.
    """
    parts = list(_walk(space, (), "" if isinstance(space, spaces.Dict) else "observation"))
    parts = [part for part in parts if part[1] != (ACTION_MASK,)]
    names = [name for name, _, _ in parts]
    for name in ignore:
        require(name in names, "env.ignore", list(ignore), f"among the observation keys, {', '.join(names)}")
    layouts: dict[str, Any] = dict(images or {})
    for name in layouts:
        require(name in names, "env.images", layouts, f"layouts of observation keys, {', '.join(names)}")
    keys = [ObservationKey(name, path, part, layouts.get(name)) for name, path, part in parts if name not in ignore]
    keys = [replace(key, name=f"{key.name}_") if key.name in _RESERVED else key for key in keys]
    names = [key.name for key in keys]
    require(bool(keys), "env.ignore", list(ignore), "a list that leaves at least one observation key")
    for key in keys:
        if not isinstance(key.space, _ENCODABLE):
            raise UserError(
                f"observation {key.name!r} is a {type(key.space).__name__} space, which cannot be encoded; "
                f"leave it out with env.ignore=[{key.name}], or turn it into a Box with a wrapper in env.wrappers"
            )
        if names.count(key.name) > 1:
            raise UserError(f"observation {key.name!r}: two keys have this name; rename one with a wrapper")
    return keys


def keys_of_spec(spec: Composite, n_batch_dims: int) -> list[ObservationKey]:
    """Return the parts of a TorchRL environment's observation, given the spec of ``("observation", ...)``.

    Raises:
        UserError: if one is neither a vector, a discrete value nor an image ``[H, W, C]``.
    """
    keys = []
    for name, entry in spec.items():
        shape = tuple(entry.shape[n_batch_dims:])
        is_image = entry.dtype == torch.uint8 and len(shape) == 3
        if len(shape) > 1 and not is_image:
            raise UserError(
                f"observation {name!r} has shape {shape} and dtype {entry.dtype}; must be a vector, a discrete value, "
                f"or an image (uint8 [H, W, C])"
            )
        if is_image and _plausible_layouts(shape) == ["channels_first"]:
            raise UserError(
                f"observation {name!r} has shape {shape}, channels first; images of TorchRL environments must be "
                f"[H, W, C]: append torchrl.envs.PermuteTransform((-2, -1, -3), in_keys=[{name!r}]) to the environment"
            )
        path = (str(name),) if len(spec.keys()) > 1 else ()
        layout: ImageLayout | None = "channels_last" if is_image else None
        keys.append(ObservationKey(str(name), path, space_of(entry, n_batch_dims), layout))
    return keys


def without_keys(space: Space, ignore: Sequence[str]) -> Space:
    """Return an observation space without its ignored top-level parts and without an action mask."""
    if not isinstance(space, spaces.Dict):
        return space
    kept = [(str(key), part) for key, part in space.spaces.items()]
    return spaces.Dict([(key, part) for key, part in kept if key not in (*ignore, ACTION_MASK)])


def _layout_of(name: str, shape: tuple[int, ...]) -> ImageLayout:
    """Return the only plausible image layout of a uint8 array of this shape.

    Raises:
        UserError: if there is none, or more than one.
    """
    if len(shape) == 2:
        return "channels_last"
    plausible = _plausible_layouts(shape[-3:]) if len(shape) <= 4 else []
    if len(plausible) == 1:
        return plausible[0]
    choices = "channels_last, or to channels_first or vector" if len(shape) <= 4 else "vector"
    raise UserError(
        f"observation {name!r} of shape {shape}: cannot tell which dimension holds the image channels; set "
        f"env.images.{name}={choices}"
    )


def _plausible_layouts(shape: tuple[int, ...]) -> list[ImageLayout]:
    """Return the layouts in which a ``shape`` of three dimensions looks like that of an image.

    Either side must be at least three times as long as there are channels. Channels that come last, as is Gymnasium's
    convention, may be more numerous if the sides are equal, as in grids of one-hot cells. Up to four are also accepted
    if both sides are longer than four.
    """
    first, middle, last = shape
    found: list[ImageLayout] = []
    few = 3 * last <= min(first, middle) or last <= _MAX_CHANNELS < min(first, middle)
    if few or first == middle != last:
        found.append("channels_last")
    if 3 * first <= min(middle, last):
        found.append("channels_first")
    return found


def _walk(space: Space, path: tuple[str | int, ...], name: str) -> Iterator[tuple[str, tuple[str | int, ...], Space]]:
    """Yield the name, path and space of every part."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _walk(part, (*path, key), f"{name}_{key}" if name else str(key))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _walk(part, (*path, index), f"{name}_{index}")
    else:
        yield name, path, space
