"""``memo register``: name a run's checkpoint in the MLflow model registry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError, require
from memo_lightning.overrides import command, override_text
from memo_lightning.tracking.registry import PREFIX, register_checkpoint
from memo_lightning.tracking.store import no_store_of_run, store_of_run

HELP = """Registers the checkpoint of a finished run in MLflow's model registry, as the next version of a model. Load it
from there with checkpoint=models:/NAME/VERSION."""


def main(arguments: Sequence[str]) -> None:
    """Register the checkpoint, and print its name."""
    if print_help("register", HELP, arguments):
        return
    config = compose_config("register", arguments)
    require(bool(config.name), "name", config.name, "the name of a model, e.g. name=memo-dark-key-to-door")
    name, run_dir = str(config.name), Path(str(config.run_dir or ""))  # they may be numbers
    if not config.run_dir or not (run_dir / "metrics.json").is_file():
        raise UserError(f"run_dir={config.run_dir}: must be the folder of a finished run of memo train")
    run_id = json.loads((run_dir / "metrics.json").read_text())["mlflow_run_id"]
    require(run_id is not None, "run_dir", config.run_dir, "a run that was logged to MLflow")
    logged_to = OmegaConf.load(run_dir / "config.yaml").logger.tracking_uri
    store = store_of_run(logged_to, run_id, run_dir)
    if store is None:
        raise UserError(f"run_dir={config.run_dir}: {no_store_of_run(logged_to, run_id)}")
    print(f"registering the checkpoint of {run_dir} in {store}")
    version = register_checkpoint(store, run_id, name)
    uri = f"{PREFIX}{name}/{version}"
    # The store is that of the run, which need not be the default one.
    words = [override_text("checkpoint", uri), override_text("tracking_uri", store)]
    print(f"registered as {uri}\n\nnext: {command('memo', 'evaluate', *words)}")
