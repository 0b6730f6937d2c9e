"""A study in its storage: beginning it, resuming it, and the owners of its trials."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Container, Iterator
from typing import Any

import optuna
import psutil
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from memo_lightning.errors import UserError
from memo_lightning.sweeps.study_file import StudySpec

BEAT_SECONDS = 10.0
_SILENCE_SECONDS = 120.0  # after which a silent owner on another machine is taken for dead
_OWNERLESS_SECONDS = 15.0  # a trial gets its owner right after it is created, unless that owner dies in between
_SETTINGS, _MLFLOW, _BEAT = "settings", "mlflow_run_id", "beat "
_EXHAUSTED = "exhausted"
OWNER, INTERRUPTED, RETRIED, ERROR = "owner", "interrupted", "retried", "error"
_REPEATED = {INTERRUPTED, RETRIED}


def open_study(spec: StudySpec, storage: BaseStorage) -> optuna.Study | None:
    """Return the study if it has begun, or None.

    Raises:
        UserError: if it began with other settings.
    """
    if spec.name not in optuna.get_all_study_names(storage):
        return None
    study = optuna.load_study(study_name=spec.name, storage=storage)
    _check_unchanged(spec, study)
    return study


def begin_study(spec: StudySpec, storage: BaseStorage, mlflow_run_id: str | None) -> optuna.Study:
    """Create the study in its storage."""
    study = optuna.create_study(study_name=spec.name, storage=storage, directions=spec.directions, load_if_exists=True)
    study.set_user_attr(_SETTINGS, json.dumps(spec.fixed_settings))
    study.set_user_attr(_MLFLOW, mlflow_run_id)
    return study


def mlflow_run_of(study: optuna.Study) -> str | None:
    """Return the id of the study's MLflow run."""
    return study.user_attrs.get(_MLFLOW)


class Owner:
    """The process that works on a study, known to others by its heartbeat.

    One mechanism serves all storages: a time in the study's attributes, renewed while the process lives. Other
    processes only check by their own clocks whether it changes, as the clocks of two machines need not agree.

    Args:
        study: the study that it works on.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self.name = f"{socket.gethostname()}:{os.getpid()}:{_start_time(os.getpid())}"
        self._last_beat = 0.0
        self._seen: dict[object, tuple[float | None, float]] = {}

    def beat(self) -> None:
        """Renew the heartbeat if ``BEAT_SECONDS`` have passed."""
        if time.monotonic() - self._last_beat >= BEAT_SECONDS or not self._last_beat:
            self._study.set_user_attr(_BEAT + self.name, time.time())
            self._last_beat = time.monotonic()

    def orphans(self, own: Container[int]) -> Iterator[FrozenTrial]:
        """Yield the running trials whose owners have died, or that never got an owner.

        Args:
            own: ids of the trials that this process is running.
        """
        beats = self._study.user_attrs
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            owner = trial.user_attrs.get(OWNER)
            if owner == self.name:
                silent = trial._trial_id not in own
            elif owner is None:
                silent = self._seconds_unchanged(trial._trial_id, None) > _OWNERLESS_SECONDS
            else:
                silent = self._seconds_unchanged(owner, beats.get(_BEAT + owner)) > _SILENCE_SECONDS or _is_dead(owner)
            if silent:
                yield trial

    def _seconds_unchanged(self, of: object, value: float | None) -> float:
        """Return for how many seconds ``value`` has not changed, as far as this process has seen."""
        now = time.monotonic()
        seen, since = self._seen.get(of, (value, now))
        if seen != value:
            since = now
        self._seen[of] = value, since
        return now - since


def n_running(study: optuna.Study) -> int:
    """Return the number of running trials on all machines."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def is_wanted(study: optuna.Study, n_trials: int) -> bool:
    """Return whether a study needs another trial to reach ``n_trials``, or has one waiting to be repeated.

    Trials count if they are running, or over and not to be repeated.
    """
    trials = study.get_trials(deepcopy=False)
    if any(trial.state is TrialState.WAITING for trial in trials):
        return True
    repeated = sum(trial.state is TrialState.FAIL and bool(_REPEATED & set(trial.user_attrs)) for trial in trials)
    return len(trials) - repeated < n_trials and not study.user_attrs.get(_EXHAUSTED, False)


def mark_exhausted(study: optuna.Study) -> None:
    """Record that the search space is finite and has been tried completely."""
    study.set_user_attr(_EXHAUSTED, True)


def _check_unchanged(spec: StudySpec, study: optuna.Study) -> None:
    began: dict[str, Any] = json.loads(study.user_attrs.get(_SETTINGS, "null")) or {}
    now: dict[str, Any] = json.loads(json.dumps(spec.fixed_settings))
    for key in sorted(set(began) | set(now)):
        if began.get(key) != now.get(key):
            raise UserError(
                f"{key}: has changed since study {spec.name!r} began (was {json.dumps(began.get(key))}, "
                f"is {json.dumps(now.get(key))}); give the changed study a new name=NAME"
            )


def _is_dead(owner: str) -> bool:
    """Return whether an owner on this machine has died; for other machines, only the heartbeat tells."""
    host, pid, started = owner.rsplit(":", 2)
    return host == socket.gethostname() and _start_time(int(pid)) != started


def _start_time(pid: int) -> str:
    """Return the start time of a process, to tell it from a later one with the same id; ``gone`` if it has ended."""
    try:
        process = psutil.Process(pid)
        return "gone" if process.status() == psutil.STATUS_ZOMBIE else str(round(process.create_time()))
    except psutil.Error:
        return "gone"
