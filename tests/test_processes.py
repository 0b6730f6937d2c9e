"""A worker that dies during start-up ends the run, with a line that says why."""

import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from memo_lightning.errors import UserError
from memo_lightning.processes import UNGUARDED, start_watching
from tiny import TINY_TRAINING

SCRIPT = """
from memo_lightning.config import compose_config
from memo_lightning.training.train import train

train(compose_config("train", {overrides}))
"""
KINDS = {
    "collector=multi_sync": [*TINY_TRAINING, "collector=multi_sync"],
    "env.workers": [
        "debug=smoke",
        "env=gymnasium",
        "env.id=CartPole-v1",
        "env.workers=2",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_script_without_a_main_guard_is_told_so(kind, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(overrides=[*KINDS[kind], "logger=none", "total_frames=100000000"]))
    start = time.monotonic()
    ended = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert time.monotonic() - start < 100, "most of it imports, on a machine that is busy"
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert 'under `if __name__ == "__main__":`' in last, ended.stderr
    assert ended.stderr.count("Traceback") == 1, "workers are silent"
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"], "no run, of a worker or of its parent"


def wait_for_one_that_ends(status):
    worker = multiprocessing.get_context("spawn").Process(target=os._exit, args=(status,))
    worker.start()
    time.sleep(60)


@pytest.mark.parametrize(("status", "error"), [(UNGUARDED, UserError), (3, RuntimeError)])
def test_whoever_waits_for_a_worker_that_has_ended_is_not_waited_for(status, error):
    start = time.monotonic()
    with pytest.raises(error, match="main guard|__main__" if error is UserError else r"exit status 3"):
        start_watching(lambda: wait_for_one_that_ends(status))
    assert time.monotonic() - start < 40
    assert start_watching(lambda: 7) == 7
