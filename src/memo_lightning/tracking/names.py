"""What runs are called by what they do."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig


def memory_name(baseline: str) -> str:
    """Return what a run's memory is called: the baseline's name, or ``memo`` where nothing was swapped."""
    return "memo" if baseline == "none" else baseline


def environment_name(config: DictConfig | dict[str, Any]) -> str:
    """Return what a run's environment is called: the option of ``conf/env/``, or what a general one stands for."""
    env = config["env"]
    return env.get("id") or env.get("target") or config["choices"]["env"]
