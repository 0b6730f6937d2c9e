"""A PyTorch Lightning experiment platform for reinforcement learning with long memory."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from memo_lightning.version import __version__

if TYPE_CHECKING:
    from memo_lightning.policies.loading import load

# In a notebook, importing any library that imports tqdm.auto says so where ipywidgets is missing; our bars need it not.
warnings.filterwarnings("ignore", message="IProgress not found")

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    """Import ``load`` when it is used, as it needs torch, and the package does not."""
    if name == "load":
        from memo_lightning.policies.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
