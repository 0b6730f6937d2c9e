"""The software and hardware that the measurements run on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from memo_lightning import __version__
from memo_lightning.benchmarks.gpu.measure import Settings, SkippedError

_PACKAGES = ("torch", "triton", "tensordict", "torchrl", "gymnasium", "lightning", "hydra-core", "mlflow", "ray")


def system() -> dict[str, Any]:
    """Return versions (None for packages that are not installed) and cores, without touching the card."""
    found: dict[str, Any] = {"memo-lightning": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return {**found, "cores": os.cpu_count()}


def card(settings: Settings) -> dict[str, Any]:
    """Return the properties of the card, and the CUDA and cuDNN versions that torch uses.

    Raises:
        SkippedError: on the CPU.
    """
    if settings.device != "cuda":
        raise SkippedError("no GPU with --device cpu")
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
