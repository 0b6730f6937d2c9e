"""A trial of a study, run in this process."""

import optuna
import pytest

from memo_lightning.sweeps.storage import open_storage
from memo_lightning.sweeps.trial import STORAGE_VARIABLE, TrialTask, run_trial
from tiny import TINY_TRAINING


@pytest.mark.parametrize(
    ("n_warmup_steps", "seeds", "state"),
    [(320, [0], "pruned"), (640, [0], "complete"), (640, [0, 1], "pruned"), (1280, [0, 1], "complete")],
)
def test_a_pruner_ends_a_trial_only_while_something_is_left_to_do(n_warmup_steps, seeds, state, tmp_path, monkeypatch):
    """The pruner ends every trial after its warm-up; a run of this trial has two rollouts of 320 frames."""
    location = str(tmp_path / "journal.log")
    monkeypatch.setenv(STORAGE_VARIABLE, location)
    study = optuna.create_study(study_name="s", storage=open_storage(location), direction="maximize")
    task = TrialTask(
        [*TINY_TRAINING, "total_frames=640", "logger=none"],
        seeds,
        ["return_per_trial"],
        study="s",
        trial_id=study.ask()._trial_id,
        pruner={
            "_target_": "optuna.pruners.ThresholdPruner",
            "upper": -1000.0,
            "n_warmup_steps": n_warmup_steps,
        },
        prune_on="train/return_per_trial",
        prune_every=320,
    )
    result = run_trial(task, tmp_path / "trial")
    assert result.state == state
    assert len(result.values) == (state == "complete")
