"""``memo ui``: open the MLflow UI on a store."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError, require
from memo_lightning.tracking import describe_store, store_file
from memo_lightning.tracking.store import open_store, start_page, store_errors

HELP = "Serves the MLflow UI on 127.0.0.1, for the store that memo train logs to."


def main(arguments: Sequence[str]) -> None:
    """Replace this process with MLflow's server; Ctrl-C ends it."""
    if print_help("ui", HELP, arguments):
        return
    config = compose_config("ui", arguments)
    require(0 < config.port < 65536, "port", config.port, "between 1 and 65535")
    store = open_store(config.tracking_uri, "tracking_uri")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", config.port)) == 0:
            raise UserError(f"port={config.port}: in use; must be a free port")
    with store_errors(store, "tracking_uri"):
        page = start_page(store)
    where = describe_store(config.tracking_uri)
    print(f"serving {where} until Ctrl-C; open http://127.0.0.1:{config.port}{page}", flush=True)
    # One process is enough for one user. Without this, MLflow starts nine, most of them to judge language models.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    command = ["mlflow", "ui", "--workers", "1", "--backend-store-uri", store]
    if file := store_file(store):  # for files logged through the server; by default, wherever the command runs
        command += ["--artifacts-destination", str(file.parent / "mlartifacts")]
    os.execv(sys.executable, [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(config.port)])
