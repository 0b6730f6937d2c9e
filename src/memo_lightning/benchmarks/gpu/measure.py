"""A measurement of the command, and the settings that all measurements share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class SkippedError(Exception):
    """A measurement that cannot be taken here; the message says why."""


@dataclass(frozen=True)
class Settings:
    """Settings that all measurements share.

    Attributes:
        device: ``cuda`` or ``cpu``.
        tiny: whether to use toy sizes, which only show that the code runs.
        seconds: time limit of a measurement.
        peak_tflops: peak TFLOP/s of the card in bfloat16, if the user gave it.
    """

    device: str
    tiny: bool = False
    seconds: float = 60.0
    peak_tflops: float | None = None

    @property
    def torch_device(self) -> torch.device:
        """The device as a torch device."""
        return torch.device(self.device)

    def autocast(self, precision: Precision) -> AbstractContextManager:
        """Return the autocast context for a precision."""
        return torch.autocast(self.device, DTYPES[precision], enabled=precision != "float32")

    def inputs(self, *shape: int, seed: int = 0) -> Tensor:
        """Return standard normal inputs of a shape, the same on every device."""
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(self.device)


@dataclass(frozen=True)
class Measure:
    """A measurement.

    Attributes:
        name: its name in the results, as ``part/what``.
        function: takes the settings and ``arguments``, and returns the results.
        arguments: further arguments of the function.
        needs: modules that must be installed.
        seconds: its time limit.
    """

    name: str
    function: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...] = ()
    needs: tuple[str, ...] = ()
    seconds: float = 60.0

    def missing(self) -> list[str]:
        """Return the required modules that are not installed."""
        return [name for name in self.needs if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
