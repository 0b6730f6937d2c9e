"""Helpers to run small studies in tests."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import yaml

from memo_lightning.sweeps.run import open_runs
from memo_lightning.sweeps.storage import open_storage
from memo_lightning.sweeps.study import begin_study
from memo_lightning.sweeps.study_file import read_study
from tiny import TINY_TRAINING

TINY = [
    *TINY_TRAINING,
    "total_frames=960",
]


def write_study(path: Path, **settings) -> Path:
    """Write a study file that searches two settings of a tiny training."""
    study = {
        "train": TINY,
        "space": {
            "algorithm.learning_rate": {"type": "float", "low": 0.001, "high": 0.01, "log": True},
            "algorithm.n_epochs": {"type": "int", "low": 1, "high": 2},
        },
        "n_trials": 3,
        **settings,
    }
    path.write_text(yaml.safe_dump(study))
    return path


def begin(folder: Path, path: Path, *overrides: str) -> None:
    """Create a study without any trial, and without the rehearsal that ``memo sweep`` starts with."""
    spec = read_study(str(path), [*overrides, f"run_dir={folder / 'studies' / path.stem}"])
    storage = open_storage(spec.settings["storage"] or str(spec.run_dir / "journal.log"))
    runs = open_runs(spec)
    begin_study(spec, storage, runs.start_study(spec.settings) if runs else None)


class PruneLongUpdates(optuna.pruners.BasePruner):
    """Prunes trials with three epochs per update at their first report, so that a test knows which are pruned."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.params["algorithm.n_epochs"] == 3


def start_sweep(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start ``memo sweep`` in ``folder``, as a user would."""
    command = [sys.executable, "-m", "memo_lightning.cli.main", "sweep", *arguments]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen, *words: str) -> str:
    """Read the study's output until a line contains one of ``words``, and return that line."""
    for line in process.stderr:
        if any(word in line for word in words):
            return line
    raise AssertionError(f"the study ended before it said {words}")


def finish(process: subprocess.Popen, seconds: float = 300) -> str:
    """Wait for a study to end successfully, and return the rest of its output."""
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        raise
    assert process.returncode == 0, said
    return said


def load(folder: Path, name: str, storage: str | None = None) -> optuna.Study:
    """Return a study from its storage."""
    return optuna.load_study(study_name=name, storage=open_storage(storage or f"{folder}/studies/{name}/journal.log"))


def trial_process_of(folder: Path, name: str) -> int:
    """Return the process id of a running trial."""
    for _ in range(100):
        for path in Path("/proc").glob("[0-9]*/fd/1"):
            with contextlib.suppress(OSError):
                if re.match(rf"{re.escape(str(folder))}/studies/{name}/trials/\d+/output.log$", os.readlink(path)):
                    return int(path.parent.parent.name)
        time.sleep(0.1)
    raise AssertionError("no trial is under way")


def read_json(path: Path):
    return json.loads(path.read_text())
