"""A run that learns from a replay goes on as if it had never been stopped: trials, priorities, counters, weights."""

import json
import os
import random
import subprocess
import sys
import time

import pytest
import torch

from memo_lightning.cli.main import main
from memo_lightning.policies.checkpoint import read_checkpoint
from tiny import TIMES, TINY_OFF_POLICY

TINY = [
    *TINY_OFF_POLICY,
    "total_frames=2560",
    "collector.n_chunks=2",
    "algorithm.replay.sampling=prioritized",
    "algorithm.max_staleness=1",
    "callbacks.checkpointing.every_n_rollouts=2",  # trials are overwritten between checkpoints
    "env.trial_length=20",
    "env.episode_length=5",
    "collector.rollout_length=40",
    "logger=none",
]
# More kills than a test run has time for: MEMO_TEST_KILLS=20 pytest tests/training/test_resume_replay.py
N_KILLS = int(os.environ.get("MEMO_TEST_KILLS", "1"))


def outcome(run_dir):
    """Everything that must be the same: metrics, except times and names, and all weights, optimizer and replay."""
    metrics = json.loads((run_dir / "metrics.json").read_text())
    for name in (*TIMES, "mlflow_run_id"):
        del metrics[name]
    checkpoint = read_checkpoint(run_dir / "checkpoints" / "last.ckpt")
    (replay,) = checkpoint["algorithm"]["replay"]
    state = {
        **checkpoint["state_dict"],
        **{f"{k}/{n}": v for k, s in checkpoint["optimizer_states"][0]["state"].items() for n, v in s.items()},
        "priorities": replay["priorities"]["priorities"],
        "n_added": torch.tensor(replay["n_added"]),
        "n_updates": torch.tensor(checkpoint["algorithm"]["n_updates"]),
    }
    files = sorted((run_dir / "replay" / "rank0" / "trials").rglob("*.memmap"))
    return metrics, state, {path.name: path.read_bytes() for path in files}


def assert_same(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert [name for name, value in one[1].items() if not torch.equal(value, other[1][name])] == []
    assert one[2] == other[2], "the trials of the replay"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    start = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(start)
        assert main(["train", *TINY, "run_dir=run"]) == 0
    result = outcome(start / "run")
    assert int(result[1]["n_updates"]) == 22
    assert int(result[1]["n_added"]) == 128 > 20, "the replay has been overwritten several times"
    return result


def test_a_finished_run_goes_on_for_longer_as_if_in_one_go(uninterrupted, in_tmp_dir):
    assert main(["train", *TINY, "total_frames=1280", "run_dir=run"]) == 0
    assert main(["train", "resume=run", "total_frames=2560"]) == 0
    assert_same(outcome(in_tmp_dir / "run"), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(N_KILLS))
def test_a_killed_run_goes_on_bit_for_bit(kill, uninterrupted, in_tmp_dir):
    rng = random.Random(kill)
    command = [sys.executable, "-m", "memo_lightning.cli.train", *TINY, "run_dir=run"]
    process = subprocess.Popen(command, cwd=in_tmp_dir, stderr=subprocess.PIPE, text=True)
    lines_until_kill = rng.randrange(2, 7)
    for line in process.stderr:
        if "frames/s" in line:
            if lines_until_kill == 0:
                break
            lines_until_kill -= 1
    time.sleep(rng.random() * 0.2)
    process.kill()
    process.communicate()
    run_dir = in_tmp_dir / "run"
    if (run_dir / "metrics.json").exists():
        pytest.fail("the run was over before it was killed; nothing was tested")
    assert main(["train", f"resume={run_dir}"]) == 0
    assert_same(outcome(run_dir), uninterrupted)


def test_a_replay_that_is_gone_or_of_another_size_is_one_line(in_tmp_dir, capsys):
    assert main(["train", *TINY, "total_frames=640", "run_dir=run"]) == 0
    capsys.readouterr()
    assert main(["train", "resume=run", "total_frames=1280", "algorithm.replay.capacity_trials=30"]) == 2
    assert capsys.readouterr().err == ("memo: run/replay/rank0: the replay has room for 20 trials: must be 30\n")
    assert main(["train", "resume=run", "total_frames=1280", "algorithm.n_critics=3"]) == 2
    error = capsys.readouterr().err
    assert "another architecture: algorithm.n_critics=3 (checkpoint: 4); first weight" in error
    assert error.count("\n") == 1
    (in_tmp_dir / "run" / "replay").rename(in_tmp_dir / "elsewhere")
    assert main(["train", "resume=run", "total_frames=1280"]) == 2
    assert "holds no replay, without which the run cannot be resumed\n" in capsys.readouterr().err
