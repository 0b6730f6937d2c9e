"""Settings that may change when a run resumes, their effect, and changes that are rejected before writing anything."""

import json
import shutil

import pytest
import torch

from memo_lightning import __version__
from memo_lightning.cli.main import main
from memo_lightning.policies.checkpoint import read_checkpoint
from tiny import TINY_TRAINING

TINY = [
    *TINY_TRAINING,
    "total_frames=640",
    "algorithm.n_minibatches=2",
    "logger=none",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *TINY, "run_dir=run"]) == 0
    return folder / "run"


@pytest.fixture
def run(finished, in_tmp_dir):
    """Return a copy of the finished run in the current directory."""
    shutil.copytree(finished, "run")
    return in_tmp_dir / "run"


def resume(*overrides):
    return main(["train", "resume=run", *overrides])


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text())


def test_a_run_that_was_stopped_before_its_report_has_only_the_report_to_make(run, finished):
    (run / "metrics.json").unlink()
    (run / "in_context_curve.png").unlink()
    assert resume() == 0
    made_again, first = metrics_of(run), metrics_of(finished)
    assert made_again.pop("wall_seconds") > first.pop("wall_seconds")
    assert made_again == first
    assert (run / "in_context_curve.png").is_file()
    assert resume() == 2, "now it is reported"


def test_a_learning_rate_is_taken_over(run):
    assert resume("total_frames=960", "algorithm.learning_rate=1e-12") == 0
    optimizer = read_checkpoint(run / "checkpoints/last.ckpt")["optimizer_states"][0]
    assert optimizer["param_groups"][0]["lr"] == 1e-12


@pytest.mark.parametrize(("n_envs", "frames"), [(4, 960), (16, 1280)])
def test_rollouts_of_another_size_go_on_to_the_same_frames(n_envs, frames, run):
    """The remaining 320 frames are two rollouts of 160, or half a rollout of 640."""
    assert resume("total_frames=960", f"collector.n_envs={n_envs}") == 0
    assert metrics_of(run)["frames"] == frames


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.d_model=32",
            "the checkpoint has a different architecture: model.d_model=32 (checkpoint: 16); first weight",
        ),
        ("run_dir=other", "run_dir: a resumed run keeps its run_dir; leave it out"),
        ("checkpoint=other.ckpt", "checkpoint: a resumed run keeps its checkpoint; leave it out"),
    ],
)
def test_what_cannot_be_changed_is_refused_and_the_run_left_as_it_was(override, message, run, capsys):
    before = (run / "config.yaml").read_text()
    assert resume("total_frames=960", override) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    assert (run / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("changes", "version"),
    [({"memo_format": None, "memo_version": None, "policy_spec": None}, "0.1"), ({"memo_format": 1}, __version__)],
    ids=["without a format", "another format"],
)
def test_a_checkpoint_of_another_version_is_refused_and_left_as_it_was(changes, version, run, capsys):
    path = run / "checkpoints/last.ckpt"
    checkpoint = read_checkpoint(path) | changes
    torch.save({name: value for name, value in checkpoint.items() if value is not None}, path)
    before = path.read_bytes()
    commands = [["train", "resume=run", "total_frames=960"], ["train", *TINY, "run_dir=new", f"checkpoint={path}"]]
    for command in [*commands, ["evaluate", "checkpoint=run"]]:
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"last.ckpt: written by memo-lightning {version}, whose checkpoints this version cannot read; " in error
        assert f"pip install 'memo-lightning=={version}.*', or train again" in error
        assert error.count("\n") == 1, error
    assert path.read_bytes() == before
    assert not (run.parent / "new").exists()
