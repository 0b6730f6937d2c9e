"""A study in MLflow: a parent run, a child run for every trial, and below these the runs of the trials' seeds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.time import get_current_time_millis

from memo_lightning.errors import UserError
from memo_lightning.tracking.code_version import code_tags
from memo_lightning.tracking.store import (
    check_not_deleted,
    check_run_not_deleted,
    experiment_id_of,
    is_permanent,
    open_client,
    store_errors,
)


class StudyRuns:
    """Writer of the MLflow runs of one study.

    Args:
        tracking_uri: address of the store.
        experiment_name: name of the MLflow experiment, which also holds the training runs.
        study: name of the study.

    Raises:
        UserError: if the store cannot be used.
    """

    def __init__(self, tracking_uri: str, experiment_name: str, study: str) -> None:
        self._study, self._uri = study, tracking_uri
        with self._errors():
            self._experiment_id = experiment_id_of(tracking_uri, experiment_name)
            self._client = open_client(tracking_uri)

    def check_answers(self) -> None:
        """Raise MLflow's error if the store does not answer, or a :class:`UserError` if the experiment is deleted."""
        experiment = self._client.get_experiment(self._experiment_id)
        check_not_deleted(self._client, experiment, "logger.experiment_name")

    def start_study(self, settings: Mapping[str, Any]) -> str:
        """Create the parent run and return its id.

        Raises:
            UserError: if the store cannot be written.
        """
        public = {name: value for name, value in settings.items() if name != "storage"}  # it may hold a password
        with self._errors():
            run_id = self._start(f"study {self._study}", {"kind": "study"})
            self._client.log_dict(run_id, public, "study.yaml")
        return run_id

    def start_trial(self, parent: str, number: int, values: Mapping[str, Any]) -> str:
        """Create the run of a trial, a child of the study's run, and return its id."""
        tags = {"kind": "trial", "trial": str(number), MLFLOW_PARENT_RUN_ID: parent}
        run_id = self._start(f"{self._study} trial {number}", tags)
        params = [Param(key.replace(".", "/"), str(value)) for key, value in values.items()]
        self._client.log_batch(run_id, params=params)
        return run_id

    def tags_of_seeds(self, trial_run: str, number: int) -> dict[str, str]:
        """Return the tags that put the runs of a trial's seeds below it."""
        return {"kind": "seed", "study": self._study, "trial": str(number), MLFLOW_PARENT_RUN_ID: trial_run}

    def end_trial(self, run_id: str, state: str, values: Mapping[str, float], error: str | None) -> None:
        """Close the run of a trial, and those that its seeds have left open.

        Args:
            run_id: id of the trial's run.
            state: ``complete``, ``pruned``, ``failed`` or ``interrupted``.
            values: the metrics that the trial reached.
            error: what went wrong, if anything.
        """
        status = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}[state]
        now = get_current_time_millis()
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, 0) for name, value in values.items()],
            tags=[RunTag("state", state), *([RunTag("error", error)] if error else [])],
        )
        below = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'"
        for run in self._client.search_runs([self._experiment_id], below):
            if run.info.status == "RUNNING":
                self._client.set_terminated(run.info.run_id, "KILLED")
        self._client.set_terminated(run_id, status)

    def end_study(self, run_id: str, status: str, values: Mapping[str, float], files: Sequence[Path]) -> None:
        """Close the parent run, and store its metrics and files; if that fails, say so on stderr.

        Args:
            run_id: id of the study's run.
            status: ``FINISHED``, or ``KILLED`` if the study was interrupted.
            values: metrics of the study: best values, and numbers of trials by state.
            files: plots and other files to store with it.
        """
        try:
            with self._errors():
                check_run_not_deleted(self._client, run_id)
                for name, value in values.items():
                    self._client.log_metric(run_id, name, value)
                for file in files:
                    self._client.log_artifact(run_id, str(file))
                self._client.set_terminated(run_id, status)
        except UserError as error:
            print(f"not logged to MLflow: {error}; to log it later, repeat the command", file=sys.stderr)

    def reopen_study(self, run_id: str) -> None:
        """Mark a resumed study as running.

        Raises:
            UserError: if the store does not answer, or its run was deleted or is in another store.
        """
        with self._errors():
            try:
                check_run_not_deleted(self._client, run_id)
            except MlflowException as error:
                if not is_permanent(error):
                    raise
                raise UserError(
                    f"study {self._study}: its MLflow run {run_id} is not in logger.tracking_uri={self._uri!r}; if it "
                    f"began with another store, set MLFLOW_TRACKING_URI to that; else begin a new study with "
                    f"name={self._study}-2"
                ) from None
            self._client.update_run(run_id, status="RUNNING")

    def _errors(self) -> AbstractContextManager[None]:
        return store_errors(self._uri, "logger.tracking_uri")

    def _start(self, name: str, tags: dict[str, str]) -> str:
        tags = {**tags, "study": self._study, **code_tags()}
        return self._client.create_run(self._experiment_id, run_name=name, tags=tags).info.run_id
