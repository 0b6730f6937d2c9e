"""Running a study: trials in separate processes, several at once, until there are enough."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from memo_lightning.errors import UserError
from memo_lightning.sweeps.rehearsal import rehearse
from memo_lightning.sweeps.report import StudyReport, write_report
from memo_lightning.sweeps.space import as_overrides, draw
from memo_lightning.sweeps.storage import open_storage
from memo_lightning.sweeps.study import (
    ERROR,
    INTERRUPTED,
    OWNER,
    RETRIED,
    Owner,
    begin_study,
    is_wanted,
    mark_exhausted,
    mlflow_run_of,
    n_running,
    open_study,
)
from memo_lightning.sweeps.study_file import StudySpec
from memo_lightning.sweeps.trial import STORAGE_VARIABLE, TrialResult, TrialTask, read_result, write_task
from memo_lightning.sweeps.trial_process import TrialProcess
from memo_lightning.tracking import resolve_store
from memo_lightning.tracking.store import is_permanent
from memo_lightning.tracking.study_runs import StudyRuns
from memo_lightning.training.devices import worker_environments
from memo_lightning.wording import one_line

_POLL_SECONDS = 0.5
_AWAY_SECONDS = 5.0  # between attempts to reach a storage that does not answer
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
_AWAY = (SQLAlchemyError, StorageInternalError, MlflowException)


@dataclass
class _Worker:
    """A running trial on this machine."""

    slot: int
    trial_id: int
    number: int
    process: TrialProcess


def run_study(spec: StudySpec) -> StudyReport:
    """Run the study to its end, starting or resuming it, and report its outcome.

    Args:
        spec: the study.

    Raises:
        UserError: before any trial starts, if the storage or the folder cannot be used, the study began with other
            settings, or the rehearsal fails.
        KeyboardInterrupt: after Ctrl-C, once the running trials have been ended and put back into the queue.
    """
    location = spec.settings["storage"] or str(spec.run_dir / "journal.log")
    environments = worker_environments(
        spec.settings["workers"], spec.train_config.trainer.accelerator, spec.train_config.trainer.devices
    )
    storage = open_storage(location)
    with _only_one_in(spec.run_dir):
        study = open_study(spec, storage)
        runs = open_runs(spec)
        if study is None:
            rehearse(spec, environments[0])
            study = begin_study(spec, storage, runs.start_study(spec.settings) if runs else None)
        elif runs and (parent := mlflow_run_of(study)):
            runs.reopen_study(parent)
        runner = StudyRunner(spec, study, storage, location, runs, environments)
        try:
            runner.run()
        except KeyboardInterrupt:
            runner.interrupt()
            raise
        finally:
            runner.kill()  # this process would wait for them before it ends
        return write_report(spec, study, runs)


class StudyRunner:
    """Scheduler that keeps the workers of this machine busy until the study has its trials.

    Args:
        spec: the study's description.
        study: the study in its storage.
        storage: the storage.
        location: location of the storage, for the trials' processes.
        runs: writer of the study's MLflow runs; None for none.
        environments: environment variables of each worker.
    """

    def __init__(
        self,
        spec: StudySpec,
        study: optuna.Study,
        storage: BaseStorage,
        location: str,
        runs: StudyRuns | None,
        environments: list[dict[str, str]],
    ) -> None:
        self._spec, self._study, self._storage, self._runs = spec, study, storage, runs
        self._n_trials: int = spec.settings["n_trials"]
        self._location, self._environments = location, environments
        self._owner = Owner(study)
        self._workers: list[_Worker] = []
        self._reap_after = 0.0
        self._waits = False

    def run(self) -> None:
        """Run trials until there are enough, and wait for those of other machines too.

        Raises:
            UserError: if the study's MLflow experiment was deleted in the meantime.
        """
        while True:
            try:
                self._owner.beat()
                self._collect()
                if time.monotonic() >= self._reap_after:
                    self._reap()
                while len(self._workers) < len(self._environments) and is_wanted(self._study, self._n_trials):
                    self._start()
                if not self._workers and not is_wanted(self._study, self._n_trials) and not self._others():
                    return
            except _AWAY as error:
                if is_permanent(error):
                    name = self._spec.name
                    raise UserError(
                        f"study {name}: cannot be logged to MLflow any more ({one_line(error)}); begin a new study "
                        f"with name={name}-2"
                    ) from None
                print(f"storage cannot be reached ({one_line(error)}); trials continue; retrying", file=sys.stderr)
                time.sleep(_AWAY_SECONDS)
                # The other machines' heartbeats could not be written either.
                self._reap_after = time.monotonic() + 3 * _AWAY_SECONDS
            time.sleep(_POLL_SECONDS)

    def interrupt(self) -> None:
        """Kill the running trials, and queue those without a result to be repeated."""
        self.kill()
        try:
            for worker in self._workers:
                self._settle(self._storage.get_trial(worker.trial_id), "the study was interrupted")
        except _AWAY as error:
            print(
                f"storage cannot be reached ({one_line(error)}); the next command will settle the running trials",
                file=sys.stderr,
            )
        if self._runs and (parent := mlflow_run_of(self._study)):
            self._runs.end_study(parent, "KILLED", {}, [])

    def kill(self) -> None:
        """Kill the running trials."""
        for worker in self._workers:
            worker.process.kill()

    def _others(self) -> int:
        """Return how many trials are running on other machines; the study is not over before they are."""
        n_others = n_running(self._study)
        if n_others and not self._waits:
            self._waits = True
            print(f"waiting for {n_others} trial(s) on other machines", file=sys.stderr, flush=True)
        return n_others

    def _start(self) -> None:
        """Let the sampler choose settings, and start a process that tries them."""
        if self._runs:
            self._runs.check_answers()  # before the trial exists, as it could not continue
        self._renew_sampler()
        trial = self._study.ask()
        folder = self._folder(trial.number)
        shutil.rmtree(folder, ignore_errors=True)  # left by another study
        trial.set_user_attr(OWNER, self._owner.name)  # from now on, a result in the folder is this trial's
        values = draw(self._spec.space, trial)
        parent, run_id = mlflow_run_of(self._study), None
        if self._runs and parent:
            run_id = self._runs.start_trial(parent, trial.number, values)
            trial.set_user_attr("mlflow_run_id", run_id)
        task = TrialTask(
            overrides=[*self._spec.train, *as_overrides(values)],
            seeds=list(range(self._spec.settings["n_seeds"])),
            metrics=[objective.metric for objective in self._spec.objectives],
            tags=self._runs.tags_of_seeds(run_id, trial.number) if self._runs and run_id else {},
            study=self._spec.name,
            trial_id=trial._trial_id,
            pruner=self._spec.settings["pruner"],
            prune_on=self._spec.settings["prune_on"],
            prune_every=self._spec.prune_every,
        )
        slot = min(set(range(len(self._environments))) - {worker.slot for worker in self._workers})
        write_task(task, folder)
        variables = {**self._environments[slot], STORAGE_VARIABLE: self._location}
        process = TrialProcess(folder, variables, forked=self._spec.one_process_on_cpu)
        self._workers.append(_Worker(slot, trial._trial_id, trial.number, process))
        print(f"trial {trial.number:>3} starts     {' '.join(as_overrides(values))}", file=sys.stderr, flush=True)

    def _renew_sampler(self) -> None:
        self._study.sampler = self._spec.sampler(len(self._study.get_trials(deepcopy=False)), socket.gethostname())

    def _collect(self) -> None:
        """Record the trials that have ended on this machine."""
        for worker in [worker for worker in self._workers if worker.process.status is not None]:
            folder = self._folder(worker.number)
            result = read_result(folder) or TrialResult("failed", error=worker.process.why_no_result())
            with suppress(UpdateFinishedTrialError):  # another machine took it for dead in the meantime
                self._record(self._storage.get_trial(worker.trial_id), result)
            self._workers.remove(worker)  # only now, so that a storage that did not answer is told next time

    def _reap(self) -> None:
        """Record the trials whose owners have died: with their result if they left one here, else as interrupted."""
        for trial in self._owner.orphans({worker.trial_id for worker in self._workers}):
            self._settle(trial, "the study's process died")

    def _settle(self, trial: FrozenTrial, reason: str) -> None:
        """Record a trial that no process runs any more: with its result if it left one here, else as interrupted."""
        ours = trial.user_attrs.get(OWNER, "").startswith(f"{socket.gethostname()}:")
        result = read_result(self._folder(trial.number)) if ours else None
        with suppress(UpdateFinishedTrialError):  # another machine settled it in the meantime
            if result:
                self._record(trial, result)
            else:
                self._give_back(trial, reason)

    def _record(self, trial: FrozenTrial, result: TrialResult) -> None:
        """Write the end of a trial to MLflow, then to the storage, which makes it final."""
        if trial.state.is_finished():  # another machine took this one for dead
            return
        retries_left = self._spec.settings["retries"] - self._retries(trial)
        retry = result.state == "failed" and not result.mistake and retries_left > 0
        if result.error:
            self._storage.set_trial_user_attr(trial._trial_id, ERROR, result.error)
        if retry:
            self._storage.set_trial_user_attr(trial._trial_id, RETRIED, True)
        metrics = [objective.metric for objective in self._spec.objectives]
        values = result.values
        if result.state == "pruned":
            values = [trial.intermediate_values[max(trial.intermediate_values)]]
            metrics = [self._spec.settings["prune_on"]]
        self._close(trial, result.state, dict(zip(metrics, values, strict=False)), result.error)
        if self._tell(trial, _STATES[result.state], result.values or None) and retry:
            self._again(trial, self._retries(trial) + 1)
        reached = ", ".join(f"{m} {v:.4g}" for m, v in zip(metrics, values, strict=False)) or result.error
        again = "; will be retried" if retry else ""
        print(f"trial {trial.number:>3} {result.state:<10} {reached}{again}", file=sys.stderr, flush=True)

    def _give_back(self, trial: FrozenTrial, reason: str) -> None:
        """Record a trial as failed through no fault of its own, and queue its settings again.

        If its owner died before drawing all settings, the rest are drawn now: samplers that keep a tree of what has
        been tried reject a study with a finished trial whose settings are incomplete.
        """
        self._renew_sampler()
        draw(self._spec.space, optuna.Trial(self._study, trial._trial_id))
        trial = self._storage.get_trial(trial._trial_id)
        self._storage.set_trial_user_attr(trial._trial_id, ERROR, reason)
        self._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
        self._close(trial, "interrupted", {}, reason)
        if self._tell(trial, TrialState.FAIL, None):
            self._again(trial, self._retries(trial))
            print(f"trial {trial.number:>3} interrupted; its settings are queued again", file=sys.stderr, flush=True)

    def _tell(self, trial: FrozenTrial, state: TrialState, values: list[float] | None) -> bool:
        """Make the end of a trial final; return False if another process already has."""
        try:
            self._study.tell(trial.number, values, state)
        except (UpdateFinishedTrialError, ValueError):
            if not self._storage.get_trial(trial._trial_id).state.is_finished():
                raise
            return False
        except RuntimeError as error:
            # When everything has been tried, grid samplers call Study.stop, which is not allowed within tell.
            if "Study.stop" not in str(error):
                raise
            mark_exhausted(self._study)
        return True

    def _again(self, trial: FrozenTrial, retries: int) -> None:
        """Queue the settings of a failed trial again."""
        attributes = {"repeats": trial.number, "retries": retries}
        self._study.enqueue_trial(trial.params, user_attrs=attributes)

    def _retries(self, trial: FrozenTrial) -> int:
        return trial.user_attrs.get("retries", 0)

    def _close(self, trial: FrozenTrial, state: str, values: Mapping[str, float], error: str | None) -> None:
        run_id = trial.user_attrs.get("mlflow_run_id")
        if not (self._runs and run_id):
            return
        try:
            self._runs.end_trial(run_id, state, values, error)
        except MlflowException as refusal:
            if not is_permanent(refusal):
                raise
            print(f"trial {trial.number:>3} not logged to MLflow: {one_line(refusal)}", file=sys.stderr)

    def _folder(self, number: int) -> Path:
        return self._spec.run_dir / "trials" / f"{number:04}"


def open_runs(spec: StudySpec) -> StudyRuns | None:
    """Return the writer of a study's MLflow runs, or None if its training runs are not logged."""
    logger = spec.train_config.logger
    if not logger:
        return None
    return StudyRuns(resolve_store(logger.tracking_uri), logger.experiment_name, spec.name)


@contextmanager
def _only_one_in(run_dir: Path) -> Iterator[None]:
    """Lock ``run_dir`` for the block, to keep other processes of ``memo sweep`` out.

    Raises:
        UserError: if it is locked already, or cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run_dir / "lock")
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"run_dir={run_dir}: another memo sweep is using it; to run more trials at once, set workers=N"
        ) from None
    except OSError as error:
        raise UserError(f"run_dir={run_dir}: must be writable ({error.strerror})") from None
    with lock:
        yield
