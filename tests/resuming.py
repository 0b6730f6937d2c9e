"""Helpers for tests of resumed runs: start a run, kill it at some moment, and compare what must stay the same."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from tiny import without_times

# For more kills than a normal test run has time for: MEMO_TEST_KILLS=20 pytest tests/training -k killed_run
N_KILLS = int(os.environ.get("MEMO_TEST_KILLS", "1"))


def start_run(directory, overrides):
    """Start a training in ``directory/run`` and return its process."""
    command = [sys.executable, "-m", "memo_lightning.cli.train", *overrides, "run_dir=run"]
    return subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, text=True)


def kill_at_some_moment(process, run_dir, kill, n_lines, words):
    """Kill a run soon after it prints a line with one of the ``words``; ``kill`` seeds which line and when.

    Args:
        process: the process of the run.
        run_dir: folder of the run.
        kill: number of the kill.
        n_lines: range of lines to wait for.
        words: a line counts if it contains any of them.
    """
    rng = random.Random(kill)
    lines_until_kill = rng.randrange(*n_lines)
    for line in process.stderr:
        if any(word in line for word in words):
            if lines_until_kill == 0:
                break
            lines_until_kill -= 1
    time.sleep(rng.random() * 0.2)
    process.kill()
    process.communicate()
    if (run_dir / "metrics.json").exists():
        pytest.fail("the run was over before it was killed; nothing was tested")


def comparable_metrics(run_dir):
    """Return the metrics that must be the same: all except times and names."""
    metrics = without_times(json.loads((run_dir / "metrics.json").read_text()))
    del metrics["mlflow_run_id"]
    return metrics
