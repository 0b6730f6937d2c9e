"""What a trial in progress tells its study."""

from __future__ import annotations

import sys

import optuna
from optuna.storages import BaseStorage

from memo_lightning.sweeps.storage import open_storage


class TrialReporter:
    """Reports intermediate values of a trial and asks the study's pruner about it.

    A trial of several seeds reports means over the seeds that have come so far: after some frames of the third run, the
    mean of what the three had after so many frames. The steps of the study count the frames of all seeds.

    A storage that does not answer is no reason to lose a training: the run continues, unpruned. It is opened with the
    first report, so that ranks which never report need none.

    Args:
        location: the study's storage.
        study_name: the study.
        trial_id: the storage's id of the trial.
        pruner: decides.
    """

    def __init__(self, location: str, study_name: str, trial_id: int, pruner: optuna.pruners.BasePruner) -> None:
        self._location, self._study_name = location, study_name
        self._trial_id, self._pruner = trial_id, pruner
        self._storage: BaseStorage | None = None
        self._first_step = 0
        self._runs: list[dict[int, float]] = []  # of each seed so far, the values by frames

    def begin_run(self, first_step: int) -> None:
        """Say that the run of the next seed begins.

        Args:
            first_step: the step of the study at which it begins.
        """
        self._first_step = first_step
        self._runs.append({})

    def __call__(self, frames: int, value: float) -> bool:
        """Report ``value`` after ``frames`` frames of the run, and return whether to prune."""
        *earlier, this = self._runs
        this[frames] = value
        values = [value, *(run[frames] for run in earlier if frames in run)]
        try:
            if self._storage is None:
                self._storage = open_storage(self._location)
            step, mean = self._first_step + frames, sum(values) / len(values)
            self._storage.set_trial_intermediate_value(self._trial_id, step, mean)
            study = optuna.load_study(study_name=self._study_name, storage=self._storage, pruner=self._pruner)
            return self._pruner.prune(study, self._storage.get_trial(self._trial_id))
        except Exception as error:  # whatever the database's driver raises
            print(f"not reported to the study: {(str(error) or repr(error)).splitlines()[0]}", file=sys.stderr)
            return False
