"""What a trial in progress tells its study."""

from __future__ import annotations

import sys

import optuna
from optuna.storages import BaseStorage

from memo_lightning.sweeps.storage import open_storage


class TrialReporter:
    """Reports intermediate values of a trial and asks the study's pruner about it.

    A storage that does not answer is no reason to lose a training: the run goes on, unpruned. It is opened with the
    first report, so that ranks which never report need none.

    Args:
        location: the study's storage.
        study_name: the study.
        trial_id: the storage's id of the trial.
        pruner: decides.
        first_step: the step of the study at which this run begins.
    """

    def __init__(
        self, location: str, study_name: str, trial_id: int, pruner: optuna.pruners.BasePruner, first_step: int = 0
    ) -> None:
        self._location, self._study_name = location, study_name
        self._trial_id, self._pruner, self._first_step = trial_id, pruner, first_step
        self._storage: BaseStorage | None = None

    def __call__(self, frames: int, value: float) -> bool:
        """Report ``value`` after ``frames`` frames of the run, and return whether to prune."""
        try:
            if self._storage is None:
                self._storage = open_storage(self._location)
            self._storage.set_trial_intermediate_value(self._trial_id, self._first_step + frames, value)
            study = optuna.load_study(study_name=self._study_name, storage=self._storage, pruner=self._pruner)
            return self._pruner.prune(study, self._storage.get_trial(self._trial_id))
        except Exception as error:  # whatever the database's driver raises
            print(f"not reported to the study: {(str(error) or repr(error)).splitlines()[0]}", file=sys.stderr)
            return False
