"""Resuming a run: its own configuration, and the overrides that may change it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from memo_lightning.config import apply_overrides, read_settings, setting_names
from memo_lightning.errors import UserError
from memo_lightning.overrides import override_key
from memo_lightning.policies.checkpoint import read_checkpoint
from memo_lightning.tracking.store import no_store_of_run, store_of_run
from memo_lightning.training.run_dir import checkpoint_path


def resumed_config(run_dir: Path, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration with which the run in ``run_dir`` was started, changed by ``overrides``.

    Args:
        run_dir: the folder of a run of ``memo train``.
        overrides: single values to change, e.g. ``total_frames=5000000``; whole groups cannot be swapped.

    Raises:
        UserError: if there is no run to resume, or an override does not fit it.
    """
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"resume={run_dir}: must be the folder of a run (no config.yaml found)")
    if not checkpoint_path(run_dir).is_file():
        raise UserError(f"resume={run_dir}: the run was stopped before its first checkpoint; start it again")
    for key in map(override_key, overrides):
        if key in ("run_dir", "checkpoint"):
            raise UserError(f"{key}: a resumed run keeps its {key}; leave it out, or start a new run without resume=")
    config = read_settings(run_dir / "config.yaml")
    recorded = config.logger.tracking_uri if config.logger else None
    apply_overrides(config, overrides, optional=[*(name for name in setting_names(config) if "." in name), "logger"])
    if config.logger and config.logger.tracking_uri == recorded:
        config.logger.tracking_uri = _store_now(recorded, run_dir)
    config.resume, config.run_dir = str(run_dir), str(run_dir)
    return config


def _store_now(recorded: str, run_dir: Path) -> str:
    """Return the current location of the run's MLflow store, as its project may have been moved."""
    run_id = read_checkpoint(checkpoint_path(run_dir))["mlflow_run_id"]
    store = store_of_run(recorded, run_id, run_dir) if run_id else recorded
    if store is None:
        remedy = "name its store with logger.tracking_uri=sqlite:///PATH/mlflow.db, or train without one: logger=null"
        raise UserError(f"resume={run_dir}: {no_store_of_run(recorded, run_id)}; {remedy}")
    return store
