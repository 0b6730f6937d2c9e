"""``memo_lightning.load``: a trained policy from wherever it is kept."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from memo_lightning.errors import UserError
from memo_lightning.policies.agent import Agent
from memo_lightning.policies.checkpoint import read_checkpoint, restore_policy
from memo_lightning.tracking.store import default_store, resolve_store

MODELS = "models:/"


def load(
    source: str | Path,
    device: torch.device | str = "cpu",
    *,
    tracking_uri: str | None = None,
    model: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Agent:
    """Return the agent that a run has trained.

    Nothing of training is needed: no environment, no configuration, no Trainer. Checkpoints load without pickle. The
    caller's random numbers are left alone.

    Args:
        source: the folder of a run, a checkpoint, or ``models:/NAME/VERSION`` of MLflow's model registry.
        device: where it is to compute.
        tracking_uri: the store of ``models:/``; by default that of ``MLFLOW_TRACKING_URI``, or else ``mlflow.db``
            in the working directory.
        model: settings of the memory to be used instead of those it was trained with, e.g. ``memory_budget``.
        seed: of the actions that are drawn, for acting in the same way again; None for another one every time.

    Raises:
        UserError: if there is no such policy, or the settings do not fit it.
    """
    checkpoint = find_checkpoint(source, tracking_uri)
    with torch.random.fork_rng(devices=()):  # weights are drawn before they are read
        spec, policy = restore_policy(checkpoint, model or {})
    known = {name: checkpoint[name] for name in ("config", "frames", "mlflow_run_id")}
    return Agent(spec, policy.to(check_device(device)), known, seed)


def find_checkpoint(source: str | Path, tracking_uri: str | None = None) -> dict[str, Any]:
    """Return the checkpoint that ``source`` names; see :func:`load`."""
    if str(source).startswith(MODELS):
        from memo_lightning.tracking.registry import fetch_checkpoint  # MLflow takes seconds to import

        with tempfile.TemporaryDirectory() as folder:
            store = resolve_store(tracking_uri or default_store())
            return read_checkpoint(fetch_checkpoint(store, str(source), Path(folder)))
    path = Path(source)
    if path.is_dir():
        run = path / "checkpoints" / "last.ckpt"
        if not run.is_file():
            raise UserError(f"{path}: holds no run (no checkpoints/last.ckpt)")
        path = run
    return read_checkpoint(path)


def folder_beside(source: str, name: str) -> Path:
    """Return where what is made of a policy goes: the folder ``name`` in that of its run.

    A registered model has no folder of its own: it gets one in ``runs``.
    """
    if source.startswith(MODELS):
        return Path("runs") / re.sub(r"\W+", "-", source) / name
    path = Path(source)
    return (path if path.is_dir() else path.parents[min(1, len(path.parents) - 1)]) / name


def check_device(device: torch.device | str) -> torch.device:
    """Return the device, or raise :class:`UserError` where there is none."""
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UserError(f"device={device}: must be cpu or cuda") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={device}: must be cpu, as there is no GPU here")
    return found
