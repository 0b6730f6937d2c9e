"""One measurement of the command, and the settings that all of them share."""

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
    """A measurement makes no sense here; the message says why."""


@dataclass(frozen=True)
class Settings:
    """What all measurements share.

    Attributes:
        device: ``cuda`` or ``cpu``.
        tiny: toy sizes, which show that the code runs and nothing else.
        seconds: what a measurement may take.
        peak_tflops: of the card in bfloat16, where the user gave it.
    """

    device: str
    tiny: bool = False
    seconds: float = 60.0
    peak_tflops: float | None = None

    @property
    def torch_device(self) -> torch.device:
        """Where it runs."""
        return torch.device(self.device)

    def autocast(self, precision: Precision) -> AbstractContextManager:
        """Return the context in which models compute."""
        return torch.autocast(self.device, DTYPES[precision], enabled=precision != "float32")

    def inputs(self, *shape: int, seed: int = 0) -> Tensor:
        """Return normal numbers of a shape; they are the same on every device."""
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(self.device)


@dataclass(frozen=True)
class Measure:
    """A measurement.

    Attributes:
        name: what it is called in the results, as ``part/what``.
        function: takes the settings and ``arguments``, and returns what is written down.
        arguments: its other arguments.
        needs: modules that must be installed.
        seconds: what it may take at most.
    """

    name: str
    function: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...] = ()
    needs: tuple[str, ...] = ()
    seconds: float = 60.0

    def missing(self) -> list[str]:
        """Return the modules that it needs and that are not installed."""
        return [name for name in self.needs if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
