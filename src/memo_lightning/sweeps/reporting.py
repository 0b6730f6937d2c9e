"""What a trial in progress tells its study."""

from __future__ import annotations

import sys
from typing import Any

import optuna

from memo_lightning.sweeps.storage import open_storage


class TrialReporter:
    """Reports intermediate values of a trial and asks the study's pruner about it.

    A storage that does not answer is no reason to lose a training: the run goes on, unpruned.

    Args:
        location: the study's storage.
        study_name: the study.
        trial_id: the storage's id of the trial.
        pruner: decides.
    """

    def __init__(self, location: str, study_name: str, trial_id: int, pruner: optuna.pruners.BasePruner) -> None:
        self._storage = open_storage(location)
        self._study = optuna.load_study(study_name=study_name, storage=self._storage, pruner=pruner)
        self._trial_id = trial_id

    def __call__(self, step: int, value: float) -> bool:
        """Report ``value`` at ``step`` and return whether to prune."""
        try:
            self._storage.set_trial_intermediate_value(self._trial_id, step, value)
            trial = self._storage.get_trial(self._trial_id)
            return self._study.pruner.prune(self._study, trial)
        except Exception as error:  # whatever the database's driver raises
            print(f"not reported to the study: {_first_line(error)}", file=sys.stderr)
            return False


def _first_line(error: Any) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
