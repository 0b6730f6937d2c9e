"""What runs are called: by what they do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

MEMO = "memo"


def memory_name(config: DictConfig | Mapping[str, Any]) -> str:
    """Return what a run's memory is called, e.g. ``memo`` or ``lstm``.

    It is the option that chose it, ``baseline=NAME`` or ``model=NAME``; of a memory that no option stands for, as with
    ``baseline=custom``, the name of its class.

    Args:
        config: the run's configuration.
    """
    baseline, model = config["choices"]["baseline"], config["choices"]["model"]
    if baseline == "custom":
        return class_name(config["baseline"]["target"] or baseline)
    if baseline != "none":
        return baseline
    target = class_name(config["model"]["_target_"])
    # The option that ships stands for one class; an option of a user's own for whatever it names.
    return target if model == MEMO and target != "MemoTransformer" else model


def environment_name(config: DictConfig | Mapping[str, Any]) -> str:
    """Return what a run's environment is called: the option of ``conf/env/``, or what a general one stands for."""
    env = config["env"]
    return env.get("id") or env.get("target") or config["choices"]["env"]


def run_name(config: DictConfig | Mapping[str, Any]) -> str:
    """Return ``MEMORY-ENVIRONMENT-sSEED``, which can be part of a file's name."""
    return file_name(f"{memory_name(config)}-{environment_name(config)}-s{config['seed']}")


def file_name(name: str) -> str:
    """Return ``name`` with ``-`` in place of what a file's name should not hold, such as slashes and spaces."""
    return re.sub(r"[^\w.]+", "-", name).lstrip(".-") or "-"


def class_name(path: str) -> str:
    """Return the last part of the path of a class, e.g. ``Mine`` of ``my.module.Mine``."""
    return re.split(r"[.:]", path)[-1]
