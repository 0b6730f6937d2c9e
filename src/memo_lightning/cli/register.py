"""``memo register``: name a run's checkpoint in the MLflow model registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError, require
from memo_lightning.overrides import command, override_text
from memo_lightning.policies.checkpoint import read_checkpoint
from memo_lightning.tracking.registry import PREFIX, register_checkpoint
from memo_lightning.tracking.store import no_store_of_run, store_of_run
from memo_lightning.training.run_dir import checkpoint_path, reported_frames

HELP = """Registers the checkpoint of a finished run in MLflow's model registry, as the next version of a model. Load it
from there with checkpoint=models:/NAME/VERSION."""


def main(arguments: Sequence[str]) -> None:
    """Register the checkpoint, and print its name."""
    if print_help("register", HELP, arguments):
        return
    config = compose_config("register", arguments)
    require(bool(config.name), "name", config.name, "the name of a model, e.g. name=memo-dark-key-to-door")
    name, run_dir = str(config.name), Path(str(config.run_dir or ""))  # they may be numbers
    if not config.run_dir or not reported_frames(run_dir):
        raise UserError(f"run_dir={config.run_dir}: must be the folder of a finished run of memo train")
    checkpoint = read_checkpoint(checkpoint_path(run_dir))
    run_id, logger = checkpoint["mlflow_run_id"], checkpoint["config"].get("logger")
    if run_id is None or not logger:
        raise UserError(f"run_dir={config.run_dir}: must be a run that was logged to MLflow")
    logged_to = logger["tracking_uri"]
    store = store_of_run(logged_to, run_id, run_dir)
    if store is None:
        raise UserError(f"run_dir={config.run_dir}: {no_store_of_run(logged_to, run_id)}")
    print(f"registering the checkpoint of {run_dir} in {store}")
    version = register_checkpoint(store, run_id, name)
    uri = f"{PREFIX}{name}/{version}"
    # The store is that of the run, which need not be the default one.
    words = [override_text("checkpoint", uri), override_text("tracking_uri", store)]
    print(f"registered as {uri}\n\nnext: {command('memo', 'evaluate', *words)}")
