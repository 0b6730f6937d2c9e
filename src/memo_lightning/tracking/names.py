"""Names of runs, and of their memories and environments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

MEMO = "memo"


def memory_name(config: DictConfig | Mapping[str, Any]) -> str:
    """Return the name of a run's memory, e.g. ``memo`` or ``lstm``.

    It is the option that chose the memory, ``baseline=NAME`` or ``model=NAME``. If no option stands for the memory, as
    with ``baseline=custom``, it is the name of its class.

    Args:
        config: the run's configuration.
    """
    baseline, model = config["choices"]["baseline"], config["choices"]["model"]
    if baseline == "custom":
        return class_name(config["baseline"]["target"] or baseline)
    if baseline != "none":
        return baseline
    target = class_name(config["model"]["_target_"])
    # The shipped option stands for one class; a user's own option for whatever class it names.
    return target if model == MEMO and target != "MemoTransformer" else model


def environment_name(config: DictConfig | Mapping[str, Any]) -> str:
    """Return the name of a run's environment: its id or target, if it has one, or else the option of ``conf/env/``."""
    env = config["env"]
    return env.get("id") or env.get("target") or config["choices"]["env"]


def run_name(config: DictConfig | Mapping[str, Any]) -> str:
    """Return ``MEMORY-ENVIRONMENT-sSEED``, which is safe in a file name."""
    return file_name(f"{memory_name(config)}-{environment_name(config)}-s{config['seed']}")


def file_name(name: str) -> str:
    """Return ``name`` with ``-`` in place of characters unsafe in a file name, such as slashes and spaces."""
    return re.sub(r"[^\w.]+", "-", name).lstrip(".-") or "-"


def class_name(path: str) -> str:
    """Return the last part of the path of a class, e.g. ``Mine`` for ``my.module.Mine``."""
    return re.split(r"[.:]", path)[-1]
