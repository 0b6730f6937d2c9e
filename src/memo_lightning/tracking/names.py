"""What runs are called by what they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig


def memory_name(config: DictConfig | Mapping[str, Any], model_class: type) -> str:
    """Return what a run's memory is called.

    It is the option that chose it, ``baseline=NAME`` or ``model=NAME``; of a memory that no option stands for, as with
    ``baseline=custom``, the name of its class.

    Args:
        config: the run's configuration.
        model_class: the class that is trained.
    """
    baseline, model = config["choices"]["baseline"], config["choices"]["model"]
    if baseline not in ("none", "custom"):
        return baseline
    if baseline == "none" and config["model"]["_target_"].rpartition(".")[2] == _CLASSES.get(
        model, model_class.__name__
    ):
        return model
    return model_class.__name__


def environment_name(config: DictConfig | Mapping[str, Any]) -> str:
    """Return what a run's environment is called: the option of ``conf/env/``, or what a general one stands for."""
    env = config["env"]
    return env.get("id") or env.get("target") or config["choices"]["env"]


_CLASSES = {"memo": "MemoTransformer"}  # what ships; an option of a user's own stands for whatever it names
