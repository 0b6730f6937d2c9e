"""``memo_lightning.load``: trained policies from runs, checkpoints, packages, the Hub and MLflow."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from memo_lightning.errors import UserError, require
from memo_lightning.policies.agent import Agent
from memo_lightning.policies.checkpoint import read_checkpoint, restore_policy
from memo_lightning.policies.hub import HUB, fetch_package
from memo_lightning.policies.package import MANIFEST, is_package, read_package
from memo_lightning.tracking.store import default_store, resolve_store

MODELS = "models:/"
PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained"  # bundled packages, each in a folder of its name
FORMS = "the folder of a run, a checkpoint, the folder of a package, hf:OWNER/NAME or models:/NAME/VERSION"


def load(
    source: str | Path,
    device: torch.device | str = "cpu",
    *,
    tracking_uri: str | None = None,
    model: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Agent:
    """Load a trained policy as an :class:`Agent`.

    Nothing else from training is needed: no environment, no configuration, no Trainer. Checkpoints are read without
    pickle. The caller's random state is left untouched.

    Args:
        source: the folder of a run, a checkpoint, the folder of a package, ``hf:OWNER/NAME`` on the Hugging Face Hub,
            ``models:/NAME/VERSION`` in MLflow's model registry, or the name of a bundled policy.
        device: the device to compute on.
        tracking_uri: MLflow store for ``models:/``; defaults to ``MLFLOW_TRACKING_URI``, or else to ``mlflow.db`` in
            the working directory.
        model: settings of the memory that override those it was trained with, e.g. ``memory_budget``.
        seed: seed for sampling actions, which makes them reproducible; None for a different one every time.

    Raises:
        UserError: if there is no such policy, the settings do not fit it, or the device is not available.
    """
    checkpoint = find_checkpoint(source, tracking_uri)
    with torch.random.fork_rng(devices=()):  # building the policy draws initial weights
        spec, policy = restore_policy(checkpoint, model or {})
    known = {name: checkpoint[name] for name in ("config", "frames", "mlflow_run_id")}
    return Agent(spec, policy.to(check_device(device)), known, seed)


def find_checkpoint(source: str | Path, tracking_uri: str | None = None) -> dict[str, Any]:
    """Return the contents of the checkpoint that ``source`` names; see :func:`load`."""
    if str(source).startswith(MODELS):
        from memo_lightning.tracking.registry import fetch_checkpoint  # MLflow takes seconds to import

        with tempfile.TemporaryDirectory() as folder:
            store = resolve_store(tracking_uri or default_store())
            return read_checkpoint(fetch_checkpoint(store, str(source), Path(folder)))
    if str(source).startswith(HUB):
        return read_package(fetch_package(str(source)))
    path = Path(source)
    if not path.exists():
        if str(source) in bundled_policies():
            return read_package(PRETRAINED / str(source))
        names = ", ".join(bundled_policies())
        raise UserError(f"checkpoint={source}: no such file; must be {FORMS}, or the name of a bundled policy: {names}")
    if path.is_dir():
        if is_package(path):
            return read_package(path)
        run = path / "checkpoints" / "last.ckpt"
        if not run.is_file():
            raise UserError(f"{path}: neither a run (no checkpoints/last.ckpt) nor a package (no {MANIFEST})")
        path = run
    return read_checkpoint(path)


def is_shared(source: str) -> bool:
    """Return whether ``source`` is a package, which may come from anyone, rather than a run or a registered model."""
    return source.startswith(HUB) or is_package(Path(source))


def bundled_policies() -> list[str]:
    """Return the names of the policies that are bundled with this version."""
    return sorted(folder.name for folder in PRETRAINED.glob("*") if is_package(folder))


def default_folder(source: str, name: str) -> Path:
    """Return the folder for results of a policy: next to it, or in ``runs`` if it is not a local file or folder.

    Args:
        source: where the policy comes from, as in :func:`load`.
        name: name of the folder, e.g. ``evaluation``.
    """
    path = Path(source)
    if path.is_dir():
        return path / name
    if path.is_file():
        return path.parents[1] / name if len(path.parents) > 1 else path.parent / name
    return Path("runs") / re.sub(r"\W+", "-", source) / name


def check_device(device: torch.device | str) -> torch.device:
    """Return the device, or raise :class:`UserError` if it is not available."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise UserError(f"device={device}: must be cpu or cuda") from None
    require(found.type in ("cpu", "cuda"), "device", str(device), "cpu or cuda")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={device}: must be cpu; there is no GPU here")
    return found
