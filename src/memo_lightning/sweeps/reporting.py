"""Reports from a running trial to its study."""

from __future__ import annotations

import sys

import optuna
from optuna.storages import BaseStorage

from memo_lightning.sweeps.storage import open_storage
from memo_lightning.wording import one_line


class TrialReporter:
    """Reporter of a trial's intermediate values, which asks the study's pruner whether to prune it.

    A trial with several seeds reports means over the seeds so far: during the third run, the mean of what all three had
    after the same number of frames. The steps of the study count the frames of all seeds.

    If the storage does not answer, the run continues unpruned. The storage is opened with the first report, so that
    ranks that never report need none.

    Args:
        location: location of the study's storage.
        study_name: name of the study.
        trial_id: id of the trial in the storage.
        pruner: decides whether to prune.
    """

    def __init__(self, location: str, study_name: str, trial_id: int, pruner: optuna.pruners.BasePruner) -> None:
        self._location, self._study_name = location, study_name
        self._trial_id, self._pruner = trial_id, pruner
        self._storage: BaseStorage | None = None
        self._first_step = 0
        self._runs: list[dict[int, float]] = []  # for each seed so far, its values by frames

    def begin_run(self, first_step: int) -> None:
        """Begin the reports of the next seed's run.

        Args:
            first_step: the step of the study at which the run begins.
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
            print(f"not reported to the study: {one_line(error)}", file=sys.stderr)
            return False
