"""Reading finished trainings back from MLflow."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from memo_lightning.config import nearest
from memo_lightning.errors import UserError
from memo_lightning.tracking.store import store_file


@dataclass(frozen=True)
class FinishedRun:
    """A training that has ended.

    Attributes:
        run_id: in MLflow.
        tags: its MLflow tags.
        metrics: its ``metrics.json``.
        evaluation: its ``evaluation.json``, None where it was not evaluated.
    """

    run_id: str
    tags: Mapping[str, str]
    metrics: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None

    @property
    def score(self) -> float:
        """Return per trial at the end of training."""
        return self.metrics["return_per_trial"]


def read_finished_runs(tracking_uri: str, experiment_name: str, tags: Mapping[str, str]) -> list[FinishedRun]:
    """Return the finished trainings of an experiment, newest first.

    Args:
        tracking_uri: the store.
        experiment_name: the MLflow experiment.
        tags: tags that the runs must have.

    Raises:
        UserError: if there is no such store, experiment, or run.
    """
    file = store_file(tracking_uri)
    if file and not file.is_file():
        raise UserError(f"tracking_uri={tracking_uri}: no such store yet; memo train makes it")
    client = MlflowClient(tracking_uri)
    try:
        experiment = client.get_experiment_by_name(experiment_name)
        if experiment is None:
            known = nearest(experiment_name, [other.name for other in client.search_experiments()])
            raise UserError(f"experiment_name={experiment_name}: no such experiment; {known}")
        conditions = ["attributes.status = 'FINISHED'", *(f"tags.`{key}` = '{value}'" for key, value in tags.items())]
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = client.search_runs([experiment.experiment_id], " and ".join(conditions), page_token=token)
            runs += page
            token = page.token
            if not token:
                break
    except MlflowException as error:
        raise UserError(f"tracking_uri={tracking_uri}: cannot be read ({str(error).splitlines()[0]})") from None
    # Studies and their trials are runs too, but no trainings.
    trainings = [run for run in runs if "memory" in run.data.tags and run.data.tags.get("kind", "seed") == "seed"]
    if not trainings:
        asked = " ".join(f"{key}={value}" for key, value in tags.items()) or "at all"
        raise UserError(f"tags: no finished run {asked} in experiment {experiment_name}")
    return [finished for run in trainings if (finished := _read(client, run))]


def best_trials(runs: Sequence[FinishedRun], group_by: str) -> list[FinishedRun]:
    """Keep, of every group within a study, the runs of the trial with the best mean score."""
    trials: dict[tuple[str, str], list[FinishedRun]] = defaultdict(list)
    for run in runs:
        trials[run.tags.get(group_by, ""), run.tags.get("trial", "")].append(run)
    best: dict[str, list[FinishedRun]] = {}
    for (group, _), members in trials.items():
        if group not in best or _mean_score(members) > _mean_score(best[group]):
            best[group] = members
    return [run for members in best.values() for run in members]


def latest_of_each_seed(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Keep the newest run of every seed, that runs which were repeated do not count twice; ``runs`` newest first."""
    by_seed: dict[str, FinishedRun] = {}
    for run in runs:
        by_seed.setdefault(run.tags["seed"], run)
    return sorted(by_seed.values(), key=lambda run: int(run.tags["seed"]))


def _mean_score(runs: Sequence[FinishedRun]) -> float:
    return sum(run.score for run in runs) / len(runs)


def _read(client: MlflowClient, run: Run) -> FinishedRun | None:
    metrics = _artifact(client, run.info.run_id, "metrics.json")
    if metrics is None or "memory_bytes" not in metrics:  # ended early, or made before this was measured
        return None
    evaluation = _artifact(client, run.info.run_id, "evaluation/evaluation.json")
    return FinishedRun(run.info.run_id, run.data.tags, metrics, evaluation)


def _artifact(client: MlflowClient, run_id: str, path: str) -> Any:
    folder = path.rpartition("/")[0]
    if path not in {artifact.path for artifact in client.list_artifacts(run_id, folder or None)}:
        return None
    with tempfile.TemporaryDirectory() as target:
        return json.loads(Path(client.download_artifacts(run_id, path, target)).read_text())
