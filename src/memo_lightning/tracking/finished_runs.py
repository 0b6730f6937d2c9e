"""Reading finished trainings back from MLflow."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from memo_lightning.config import nearest
from memo_lightning.errors import UserError
from memo_lightning.tracking.store import store_file

# Settings that say where a run is kept, and which one of its kind it is; `total_frames` shows in its frames.
_NO_MATTER = {"seed", "run_dir", "total_frames"}
_NO_MATTER_GROUPS = ("logger/", "callbacks/")


@dataclass(frozen=True)
class EvaluationKind:
    """What was measured: evaluations of one kind can be held against each other.

    Attributes:
        split: tasks that were drawn from.
        trial_length: steps of a trial.
        memory_budget: entries that the memory was limited to, None for all.
        deterministic: whether the most likely action was taken.
    """

    split: str
    trial_length: int
    memory_budget: int | None
    deterministic: bool

    def __str__(self) -> str:
        """Return it in words."""
        words = [f"{self.split} tasks, {self.trial_length:,} steps"]
        words += [f"newest {self.memory_budget} entries of memory"] if self.memory_budget is not None else []
        return ", ".join([*words, *(["most likely actions"] if self.deterministic else [])])


@dataclass(frozen=True)
class FinishedRun:
    """A training that has ended.

    Attributes:
        run_id: in MLflow.
        tags: its MLflow tags.
        settings: its MLflow params.
        metrics: its ``metrics.json``.
        evaluations: what ``memo evaluate`` found, the ``evaluation.json`` of each kind.
    """

    run_id: str
    tags: Mapping[str, str]
    settings: Mapping[str, str]
    metrics: Mapping[str, Any]
    evaluations: Mapping[EvaluationKind, Mapping[str, Any]]

    @property
    def score(self) -> float:
        """Return per trial at the end of training."""
        return self.metrics["return_per_trial"]

    def group(self, group_by: str) -> str | None:
        """Return the value of a tag, or ``NAME=VALUE`` of a setting such as ``algorithm.n_epochs``; None without."""
        if group_by in self.tags:
            return self.tags[group_by]
        setting = self.settings.get(group_by.replace(".", "/"))
        return None if setting is None else f"{group_by}={setting}"


class RunStore:
    """The runs of one MLflow experiment.

    Args:
        tracking_uri: the store.
        experiment_name: the MLflow experiment.

    Raises:
        UserError: if there is no such store or experiment.
    """

    def __init__(self, tracking_uri: str, experiment_name: str) -> None:
        file = store_file(tracking_uri)
        if file and not file.is_file():
            raise UserError(f"tracking_uri={tracking_uri}: no such store yet; memo train makes it")
        self._uri, self._name = tracking_uri, experiment_name
        self._client = MlflowClient(tracking_uri)
        try:
            experiment = self._client.get_experiment_by_name(experiment_name)
            known = [] if experiment else [other.name for other in self._client.search_experiments()]
        except MlflowException as error:
            raise self._unreadable(error) from None
        if experiment is None:
            raise UserError(f"experiment_name={experiment_name}: no such experiment; {nearest(experiment_name, known)}")
        self._experiment_id = experiment.experiment_id

    def finished(self, tags: Mapping[str, str], *, of_studies: bool) -> list[FinishedRun]:
        """Return the finished trainings, newest first.

        Args:
            tags: tags that the runs must have.
            of_studies: whether to return those of studies' trials too; they have settings that a search has drawn.

        Raises:
            UserError: if there is none, or the store cannot be read.
        """
        try:
            runs = self._search({"attributes.status": "FINISHED", **{f"tags.`{k}`": v for k, v in tags.items()}})
            # Studies and their trials are runs too, but no trainings.
            trainings = [r for r in runs if "memory" in r.data.tags and r.data.tags.get("kind", "seed") == "seed"]
            chosen = [run for run in trainings if of_studies or "study" not in run.data.tags]
            if not chosen:
                asked = " ".join(f"{key}={value}" for key, value in tags.items()) or "at all"
                hint = "; those of a study need study=NAME" if trainings else ""
                raise UserError(f"tags: no finished run {asked} in experiment {self._name}{hint}")
            return [finished for run in chosen if (finished := self._read(run))]
        except MlflowException as error:
            raise self._unreadable(error) from None

    def best_trials(self, study: str, runs: Sequence[FinishedRun], group_by: str) -> tuple[list[FinishedRun], str]:
        """Keep, of every group and environment within a study, the runs of the best of its complete trials.

        Args:
            study: its name.
            runs: runs of the study.
            group_by: the tag or setting whose values are compared.

        Returns:
            The runs, and what they are the best by: the study's objective, of several its first.

        Raises:
            UserError: if no trial is complete, or the store cannot be read.
        """
        try:
            parents = self._search({"tags.kind": "study", "tags.study": study})
            settings = self._artifact(parents[0].info.run_id, "study.yaml") if parents else None
            children = self._search({"tags.kind": "trial", "tags.study": study, "tags.state": "complete"})
        except MlflowException as error:
            raise self._unreadable(error) from None
        if settings is None or not children:
            raise UserError(f"study={study}: has no complete trial yet")
        objective = settings["objectives"][0]
        metric, sign = objective["metric"], 1 if objective["direction"] == "maximize" else -1
        values = {run.info.run_id: sign * run.data.metrics[metric] for run in children}
        trials: dict[tuple[str, str | None], dict[str, list[FinishedRun]]] = defaultdict(lambda: defaultdict(list))
        for run in runs:
            trial = run.tags.get(MLFLOW_PARENT_RUN_ID, "")
            if trial in values:
                trials[run.tags["environment"], run.group(group_by)][trial].append(run)
        best = [members[max(members, key=values.__getitem__)] for members in trials.values()]
        return [run for members in best for run in members], f"{objective['direction']} {metric}"

    def _search(self, conditions: Mapping[str, str]) -> list[Run]:
        """Return all runs that meet the conditions, newest first."""
        words = " and ".join(f"{key} = '{value}'" for key, value in conditions.items())
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([self._experiment_id], words, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs

    def _read(self, run: Run) -> FinishedRun | None:
        metrics = self._artifact(run.info.run_id, "metrics.json")
        if metrics is None or "memory_bytes" not in metrics:  # ended early, or made before this was measured
            return None
        evaluations = {}
        for folder in self._client.list_artifacts(run.info.run_id, "evaluation"):
            if folder.is_dir and (found := self._artifact(run.info.run_id, f"{folder.path}/evaluation.json")):
                names = ("split", "trial_length", "memory_budget", "deterministic")
                evaluations[EvaluationKind(*(found[name] for name in names))] = found
        return FinishedRun(run.info.run_id, run.data.tags, run.data.params, metrics, evaluations)

    def _artifact(self, run_id: str, path: str) -> Any:
        folder = path.rpartition("/")[0]
        if path not in {artifact.path for artifact in self._client.list_artifacts(run_id, folder or None)}:
            return None
        with tempfile.TemporaryDirectory() as target:
            text = Path(self._client.download_artifacts(run_id, path, target)).read_text()
        return yaml.safe_load(text) if path.endswith(".yaml") else json.loads(text)

    def _unreadable(self, error: MlflowException) -> UserError:
        return UserError(f"tracking_uri={self._uri}: cannot be read ({str(error).splitlines()[0]})")


def latest_of_each_seed(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Keep the newest run of every seed, that runs which were repeated do not count twice; ``runs`` newest first."""
    by_seed: dict[str, FinishedRun] = {}
    for run in runs:
        by_seed.setdefault(run.tags["seed"], run)
    return sorted(by_seed.values(), key=lambda run: int(run.tags["seed"]))


def shared_evaluation(runs: Sequence[FinishedRun]) -> EvaluationKind | None:
    """Return the kind of evaluation by which all ``runs`` can be held against each other, None if there is none.

    Of several it is the plainest: held-out tasks, trials as long as in training, all of the memory, sampled actions.
    """
    shared = set.intersection(*(set(run.evaluations) for run in runs))
    trained = max(int(run.settings.get("env/trial_length", run.metrics["trial_length"])) for run in runs)

    def oddity(kind: EvaluationKind) -> tuple[Any, ...]:
        length, budget = abs(kind.trial_length - trained), kind.memory_budget or 0
        return kind.split != "held_out", kind.memory_budget is not None, length, kind.deterministic, budget, str(kind)

    return min(shared, key=oddity, default=None)


def differing_settings(runs: Sequence[FinishedRun]) -> dict[str, list[str]]:
    """Return the settings that matter and are not the same in all ``runs``, with their values, ``?`` for none."""
    names = sorted({name for run in runs for name in run.settings if _matters(name)})
    values = {name: list(dict.fromkeys(run.settings.get(name, "?") for run in runs)) for name in names}
    return {name: different for name, different in values.items() if len(different) > 1}


def _matters(setting: str) -> bool:
    return setting.rpartition("/")[2] not in _NO_MATTER and not setting.startswith(_NO_MATTER_GROUPS)
