"""A run that was stopped, at any moment and in any way, resumes as if it had never stopped."""

import pytest
import torch
from mlflow import MlflowClient

from memo_lightning.cli.main import main
from memo_lightning.errors import PREEMPTED
from memo_lightning.policies.checkpoint import read_checkpoint
from resuming import N_KILLS, comparable_metrics, kill_at_some_moment, start_run
from tiny import TINY_TRAINING

TINY = [
    *TINY_TRAINING,
    "total_frames=1920",
    "collector.n_chunks=2",
    "algorithm.shuffle_episodes=true",
    "algorithm.warmup_frames=1000",
    "model.layer_drop=0.5",
    "logger=none",
]


def outcome(run_dir):
    """Return all that must be the same: metrics, except times and names, and all weights."""
    checkpoint = read_checkpoint(run_dir / "checkpoints" / "last.ckpt")
    return comparable_metrics(run_dir), checkpoint["state_dict"], checkpoint["optimizer_states"][0]["state"]


def assert_same(one, other):
    assert one[0] == other[0]
    assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())
    assert all(torch.equal(v, other[2][k][name]) for k, state in one[2].items() for name, v in state.items())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    start = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(start)
        assert main(["train", *TINY, "run_dir=run"]) == 0
    return outcome(start / "run")


def test_a_finished_run_goes_on_for_longer_as_if_in_one_go(uninterrupted, in_tmp_dir):
    assert main(["train", *TINY, "logger=mlflow", "total_frames=640", "run_dir=run"]) == 0
    assert main(["train", "resume=run", "total_frames=1920"]) == 0
    assert_same(outcome(in_tmp_dir / "run"), uninterrupted)
    client = MlflowClient(f"sqlite:///{in_tmp_dir}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("memo-lightning").experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/return_per_trial")
    assert [point.step for point in history] == list(range(320, 1921, 320)), "one MLflow run, a point per rollout"
    assert client.get_metric_history(run.info.run_id, "partial_update/kl")[-1].step == 1920
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_sigterm_saves_the_run_which_then_goes_on_bit_for_bit(uninterrupted, in_tmp_dir):
    process = start_run(in_tmp_dir, [*TINY, "callbacks.checkpointing.every_n_rollouts=1000"])
    for line in process.stderr:
        if "frames/s" in line:
            break
    process.terminate()
    _, error = process.communicate(timeout=30)
    assert process.returncode == PREEMPTED, error
    assert "preempted; checkpoint: run/checkpoints/last.ckpt\nnext: memo train resume=run" in error
    assert 0 < read_checkpoint(in_tmp_dir / "run" / "checkpoints" / "last.ckpt")["frames"] < 1920
    assert main(["train", "resume=run"]) == 0
    assert_same(outcome(in_tmp_dir / "run"), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(N_KILLS))
def test_a_killed_run_goes_on_bit_for_bit(kill, uninterrupted, in_tmp_dir):
    process, run_dir = start_run(in_tmp_dir, TINY), in_tmp_dir / "run"
    kill_at_some_moment(process, run_dir, kill, (4,), ("writing to", "frames/s"))
    if not (run_dir / "checkpoints" / "last.ckpt").exists():  # killed before training began
        (run_dir / "config.yaml").unlink()
        assert main(["train", *TINY, "run_dir=run"]) == 0
    else:
        assert main(["train", f"resume={run_dir}"]) == 0
    assert_same(outcome(run_dir), uninterrupted)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resume=nowhere"], "resume=nowhere: must be the folder of a run (no config.yaml found)"),
        (["resume=run"], "total_frames=640: must be more than 640, the frames"),
        (["resume=run", "total_frames=320"], "total_frames=320: must be more than 640, the frames"),
        (["resume=run", "total_frames=many"], "total_frames='many': must be an integer"),
        (
            ["resume=run", "env=dark_key_to_door_9x9"],
            "a resumed run keeps its env",
        ),
        (["resume=run", "algorithm.gama=1"], "did you mean algorithm.gamma"),
    ],
)
def test_what_cannot_go_on_is_one_line(overrides, message, short_run, monkeypatch, capsys):
    monkeypatch.chdir(short_run.parent)
    assert main(["train", *overrides]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    start = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(start)
        assert main(["train", *TINY, "total_frames=640", "run_dir=run"]) == 0
    return start / "run"


def test_a_run_without_a_checkpoint_says_so(short_run, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text((short_run / "config.yaml").read_text())
    assert main(["train", f"resume={tmp_path}"]) == 2
    assert "stopped before its first checkpoint" in capsys.readouterr().err
