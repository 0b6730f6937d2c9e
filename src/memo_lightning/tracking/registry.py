"""Checkpoints in the MLflow model registry; what is registered is the checkpoint, never a pickled model."""

from __future__ import annotations

import re
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from memo_lightning.errors import UserError
from memo_lightning.tracking.store import check_run_not_deleted, open_client, open_store, store_errors
from memo_lightning.wording import one_line

PREFIX = "models:/"
_CHECKPOINT = "last.ckpt"  # the name of the run's artifact
_MODEL = re.compile(r"(?P<name>[^/]+)(/(?P<version>\d+)|@(?P<alias>[^/@]+))")  # names of models contain no slash
_FORMS = f"{PREFIX}NAME/VERSION or {PREFIX}NAME@ALIAS"


def register_checkpoint(tracking_uri: str, run_id: str, name: str) -> int:
    """Register the checkpoint of a run as the next version of model ``name``, and return the version.

    Raises:
        UserError: if the store has no such run, the run has no checkpoint, or the name is not allowed.
    """
    with store_errors(tracking_uri, "logger.tracking_uri"):
        client = open_client(tracking_uri)
    try:
        check_run_not_deleted(client, run_id)
        where = client.get_run(run_id).info.artifact_uri
        if _CHECKPOINT not in {artifact.path for artifact in client.list_artifacts(run_id)}:
            raise UserError(f"run {run_id}: has no checkpoint in MLflow; it has not finished, or {where} was removed")
        try:
            client.create_registered_model(name)
        except MlflowException as error:  # looking it up needs a filter, in which a quote would end the name
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
        run = client.get_run(run_id)
        tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
        source = f"{run.info.artifact_uri}/{_CHECKPOINT}"
        return int(client.create_model_version(name, source, run_id=run_id, tags=tags).version)
    except MlflowException as error:
        raise UserError(f"name={name}: cannot be registered ({one_line(error)})") from None


def fetch_checkpoint(tracking_uri: str, uri: str, folder: Path) -> Path:
    """Download a registered checkpoint.

    Args:
        tracking_uri: the store.
        uri: ``models:/NAME/VERSION``, or ``models:/NAME@ALIAS``.
        folder: where to put it.

    Returns:
        The path of the file.

    Raises:
        UserError: if there is no such model, or it cannot be fetched.
    """
    match = _MODEL.fullmatch(uri.removeprefix(PREFIX))
    with store_errors(tracking_uri, "tracking_uri"):
        tracking_uri = open_store(tracking_uri, "tracking_uri")
        client = open_client(tracking_uri)
    try:
        if match is None:
            raise UserError(f"checkpoint={uri}: must be {_FORMS}{_newest(client, uri.removeprefix(PREFIX))}")
        if match["version"]:
            model = client.get_model_version(match["name"], match["version"])
        else:
            model = client.get_model_version_by_alias(match["name"], match["alias"])
        return Path(download_artifacts(artifact_uri=model.source, dst_path=str(folder), tracking_uri=tracking_uri))
    except (MlflowException, OSError) as error:
        raise UserError(
            f"checkpoint={uri}: cannot be fetched from {tracking_uri} ({one_line(error)}); must be {_FORMS}"
        ) from None


def _newest(client: MlflowClient, name: str) -> str:
    """Return the remedy for a model that is named without a version: its newest, if there is one."""
    try:
        versions = [int(model.version) for model in client.get_registered_model(name).latest_versions]
    except MlflowException:  # there is no such model, or no model could have such a name
        versions = []
    return f"; set checkpoint={PREFIX}{name}/{max(versions)}" if versions else ""
