"""A run with a replay resumes as if it had never stopped: trials, priorities, counters and weights."""

import pytest
import torch

from memo_lightning.cli.main import main
from memo_lightning.policies.checkpoint import read_checkpoint
from resuming import N_KILLS, comparable_metrics, kill_at_some_moment, start_run
from tiny import TINY_OFF_POLICY

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


def outcome(run_dir):
    """Return all that must be the same: metrics, except times and names, weights, optimizer and replay."""
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
    return comparable_metrics(run_dir), state, {path.name: path.read_bytes() for path in files}


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
    process, run_dir = start_run(in_tmp_dir, TINY), in_tmp_dir / "run"
    kill_at_some_moment(process, run_dir, kill, (2, 7), ("frames/s",))
    assert main(["train", f"resume={run_dir}"]) == 0
    assert_same(outcome(run_dir), uninterrupted)


def test_a_replay_that_is_gone_or_of_another_size_is_one_line(in_tmp_dir, capsys):
    assert main(["train", *TINY, "total_frames=640", "run_dir=run"]) == 0
    capsys.readouterr()
    assert main(["train", "resume=run", "total_frames=1280", "algorithm.replay.capacity_trials=30"]) == 2
    assert capsys.readouterr().err == ("memo: run/replay/rank0: the replay has a capacity of 20 trials: must be 30\n")
    assert main(["train", "resume=run", "total_frames=1280", "algorithm.n_critics=3"]) == 2
    error = capsys.readouterr().err
    assert "the checkpoint has a different architecture: algorithm.n_critics=3 (checkpoint: 4); first weight" in error
    assert error.count("\n") == 1
    (in_tmp_dir / "run" / "replay").rename(in_tmp_dir / "elsewhere")
    assert main(["train", "resume=run", "total_frames=1280"]) == 2
    assert "contains no replay, which the run needs to resume\n" in capsys.readouterr().err
