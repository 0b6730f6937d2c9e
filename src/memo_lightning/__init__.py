"""A PyTorch Lightning experiment platform for reinforcement learning with long memory."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from memo_lightning.version import __version__

if TYPE_CHECKING:
    from memo_lightning.policies.loading import load

# In a notebook without ipywidgets, importing tqdm.auto prints this warning; our progress bars do not need ipywidgets.
warnings.filterwarnings("ignore", message="IProgress not found")

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    """Import ``load`` when it is used, as it needs torch and the package itself does not."""
    if name == "load":
        from memo_lightning.policies.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
