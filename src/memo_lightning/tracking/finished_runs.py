"""Reading finished training runs from MLflow."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from memo_lightning.config import nearest
from memo_lightning.errors import UserError
from memo_lightning.tracking.evaluations import FOLDER, EvaluationKind
from memo_lightning.tracking.names import MEMO, class_name
from memo_lightning.tracking.store import check_not_deleted, open_client, open_store, store_errors
from memo_lightning.wording import listed

FRAMES = "frames"  # in place of total_frames, which a resumed run may have changed
# Settings that only say where a run is kept, and which of several repetitions it is.
_NO_MATTER = {"seed", "run_dir", "resume", "total_frames"}
# The options of groups show in what they set, and the memory in its name.
_NO_MATTER_GROUPS = ("logger/", "callbacks/", "choices/")
_NEEDED_TAGS = ("memory", "environment", "seed")


@dataclass(frozen=True)
class FinishedRun:
    """A training run that has ended.

    Attributes:
        run_id: its id in MLflow.
        tags: its MLflow tags.
        settings: its MLflow params.
        metrics: the content of its ``metrics.json``.
        evaluations: the results of ``memo evaluate``, as the ``evaluation.json`` of each kind.
    """

    run_id: str
    tags: Mapping[str, str]
    settings: Mapping[str, str]
    metrics: Mapping[str, Any]
    evaluations: Mapping[EvaluationKind, Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The name of the run in MLflow's pages."""
        return self.tags.get(MLFLOW_RUN_NAME, self.run_id)

    @property
    def memory(self) -> str:
        """The name of its memory; earlier versions recorded Memo as ``none``, and a user's own memory as ``custom``."""
        memory = self.tags["memory"]
        if memory == "custom":
            return class_name(self.settings.get("baseline/target", memory))
        return MEMO if memory == "none" else memory

    @cached_property
    def what_matters(self) -> Mapping[str, str]:
        """The settings that affect results, by names like ``algorithm.gamma``; the same for all seeds."""
        matters = {
            name.replace("/", "."): value
            for name, value in self.settings.items()
            if name.rpartition("/")[2] not in _NO_MATTER and not name.startswith(_NO_MATTER_GROUPS)
        }
        return {**matters, FRAMES: str(self.metrics["frames"])}

    @property
    def score(self) -> float:
        """Return per trial at the end of training."""
        return self.metrics["return_per_trial"]

    def group(self, group_by: str) -> str | None:
        """Return the value of a tag, or ``NAME=VALUE`` for a setting such as ``algorithm.n_epochs``, or None."""
        if group_by == "memory":
            return self.memory
        if group_by in self.tags:
            return self.tags[group_by]
        setting = self.settings.get(group_by, self.settings.get(group_by.replace(".", "/")))
        return None if setting is None else f"{group_by}={setting}"


class RunStore:
    """The runs of one MLflow experiment.

    Args:
        tracking_uri: address of the store.
        experiment_name: name of the MLflow experiment.

    Raises:
        UserError: if there is no such store or experiment, or the experiment is deleted.
    """

    def __init__(self, tracking_uri: str, experiment_name: str) -> None:
        self._uri, self._name = tracking_uri, experiment_name
        with self._errors():
            self._client = open_client(open_store(tracking_uri, "tracking_uri"))
            experiment = self._client.get_experiment_by_name(experiment_name)
            known = [] if experiment else [other.name for other in self._client.search_experiments()]
        if experiment is None:
            raise UserError(f"experiment_name={experiment_name}: no such experiment; {nearest(experiment_name, known)}")
        check_not_deleted(self._client, experiment, "experiment_name")
        self._experiment_id = experiment.experiment_id

    def finished(self, tags: Mapping[str, str], *, of_studies: bool) -> tuple[list[FinishedRun], list[str]]:
        """Return the finished training runs, newest first, and what was left out.

        Args:
            tags: tags that the runs must have.
            of_studies: whether to include the runs of studies' trials, whose settings were drawn by a search.

        Returns:
            The runs, and one line for each reason to leave some out, which says which ones and how to see them.

        Raises:
            UserError: if there is none, or the store cannot be read.
        """
        with self._errors():
            # Studies and their trials are MLflow runs too, but not training runs.
            trainings = [
                run
                for run in self._search(tags)
                if run.data.tags.get("kind", "seed") == "seed" and all(tag in run.data.tags for tag in _NEEDED_TAGS)
            ]
            left_out = []
            chosen = trainings
            if not of_studies:
                chosen = [run for run in trainings if "study" not in run.data.tags]
                studies = Counter(run.data.tags["study"] for run in trainings if "study" in run.data.tags)
                left_out += [f"{_runs(n)} of a study (shown with study={study})" for study, n in studies.items()]
            running = [run for run in chosen if run.info.status != "FINISHED"]
            if running:
                names = listed(f"{run.info.run_name}: {run.info.status}" for run in running)
                left_out.append(
                    f"{_runs(len(running))} not finished ({names}); to resume one: memo train resume=RUN_DIR"
                )
            read, unusable = [], defaultdict(list)
            for run in chosen:
                if run.info.status == "FINISHED":
                    found = self._read(run)
                    if isinstance(found, FinishedRun):
                        read.append(found)
                    else:
                        unusable[found].append(run)
        for why, runs in unusable.items():
            left_out.append(f"{_runs(len(runs))} {why} ({listed(run.info.run_name for run in runs)})")
        if not read:
            asked = f"with {' '.join(f'{key}={value}' for key, value in tags.items())}" if tags else "at all"
            hint = f"; left out: {'; '.join(left_out)}" if left_out else ""
            raise UserError(f"tags: no finished run {asked} in experiment {self._name}{hint}")
        return read, left_out

    def best_trials(self, study: str, runs: Sequence[FinishedRun], group_by: str) -> tuple[list[FinishedRun], str]:
        """Keep the runs of the best complete trial of a study, for each group and environment.

        Args:
            study: name of the study.
            runs: runs of the study.
            group_by: the tag or setting whose values are compared.

        Returns:
            The runs, and the objective by which they are the best: the study's first.

        Raises:
            UserError: if no trial is complete, or the store cannot be read.
        """
        with self._errors():
            parents = self._search({"kind": "study", "study": study})
            settings = self._artifact(parents[0].info.run_id, "study.yaml") if parents else None
            children = self._search({"kind": "trial", "study": study, "state": "complete"})
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
        if not trials:
            raise UserError(f"study={study}: the finished runs of its complete trials are no longer in MLflow")
        best = [members[max(members, key=values.__getitem__)] for members in trials.values()]
        return [run for members in best for run in members], f"{objective['direction']} {metric}"

    def _search(self, tags: Mapping[str, Any]) -> list[Run]:
        """Return all runs that have these tags, newest first.

        The tags are compared here, as a quote in a tag would end its value in an MLflow filter.
        """
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([self._experiment_id], page_token=token)
            runs += [run for run in page if all(run.data.tags.get(key) == str(tags[key]) for key in tags)]
            token = page.token
            if not token:
                return runs

    def _read(self, run: Run) -> FinishedRun | str:
        """Return a run with its results, or the reason why it cannot be used."""
        metrics = self._artifact(run.info.run_id, "metrics.json")
        if metrics is None:
            return "without metrics.json: their files are no longer in MLflow, or training ended early"
        if "memory_bytes" not in metrics:
            return "of an earlier version, which did not measure memory"
        if metrics["return_per_trial"] is None or not metrics["history"]:
            return "in which no trial completed"
        evaluations = {}
        for folder in self._client.list_artifacts(run.info.run_id, FOLDER):
            if folder.is_dir and (found := self._artifact(run.info.run_id, f"{folder.path}/evaluation.json")):
                evaluations[EvaluationKind.of(found)] = found
        return FinishedRun(run.info.run_id, run.data.tags, run.data.params, metrics, evaluations)

    def _artifact(self, run_id: str, path: str) -> Any:
        folder = path.rpartition("/")[0]
        if path not in {artifact.path for artifact in self._client.list_artifacts(run_id, folder or None)}:
            return None
        with tempfile.TemporaryDirectory() as target:
            text = Path(self._client.download_artifacts(run_id, path, target)).read_text()
        return yaml.safe_load(text) if path.endswith(".yaml") else json.loads(text)

    def _errors(self) -> AbstractContextManager[None]:
        return store_errors(self._uri, "tracking_uri")


def latest_of_each_seed(runs: Sequence[FinishedRun]) -> tuple[list[FinishedRun], list[FinishedRun]]:
    """Split ``runs``, newest first, into the newest of every seed and the older ones, which would count twice."""
    by_seed: dict[str, FinishedRun] = {}
    for run in runs:
        by_seed.setdefault(run.tags["seed"], run)
    newest = sorted(by_seed.values(), key=lambda run: int(run.tags["seed"]))
    return newest, [run for run in runs if by_seed[run.tags["seed"]] is not run]


def shared_evaluation(runs: Sequence[FinishedRun]) -> EvaluationKind | None:
    """Return the kind of evaluation by which all ``runs`` can be compared, or None.

    Of several, it is the plainest: held-out tasks, trials as long as in training, unlimited memory, sampled actions.
    """
    shared = set.intersection(*(set(run.evaluations) for run in runs))
    trained = max(int(run.settings.get("env/trial_length", run.metrics["trial_length"])) for run in runs)

    def oddity(kind: EvaluationKind) -> tuple[Any, ...]:
        length, budget = abs(kind.trial_length - trained), kind.memory_budget or 0
        plain = kind.split != "held_out", kind.memory_budget is not None, bool(kind.changes)
        return *plain, length, kind.deterministic, budget, str(kind)

    return min(shared, key=oddity, default=None)


def differing_settings(runs: Sequence[FinishedRun]) -> list[str]:
    """Return the names of the settings that affect results and are not the same in all ``runs``."""
    names = sorted({name for run in runs for name in run.what_matters})
    return [name for name in names if len({run.what_matters.get(name) for run in runs}) > 1]


def _runs(number: int) -> str:
    return f"{number} run{'s' if number > 1 else ''}"
