"""``memo train checkpoint=...``: a new run that starts from the weights of another."""

import pytest
import torch

from memo_lightning.cli.main import main
from memo_lightning.policies.checkpoint import read_checkpoint

SIZES = ["debug=smoke", "model.d_model=16", "model.d_ff=32", "model.segment_length=10", "env.episode_length=10"]
TINY = [*SIZES, "collector.n_envs=8", "logger=none"]


def train(run_dir, trial_length, *overrides):
    frames = 2 * 8 * trial_length
    return main(
        ["train", *TINY, f"run_dir={run_dir}", f"env.trial_length={trial_length}", f"total_frames={frames}", *overrides]
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    start = tmp_path_factory.mktemp("trained")
    for memory in ("none", "full_context", "lstm"):
        assert train(start / memory, 40, f"baseline={memory}") == 0
    return start


def weights_at_start(run_dir):
    """Return the final weights of a run with a learning rate of almost zero."""
    return read_checkpoint(run_dir / "checkpoints" / "last.ckpt")["state_dict"]


def test_a_model_trained_on_short_trials_goes_on_with_long_ones(trained, in_tmp_dir, capsys):
    source = trained / "none" / "checkpoints" / "last.ckpt"
    assert train("run", 160, f"checkpoint={source}", "algorithm.learning_rate=1e-12") == 0
    assert "trained for 640 frames; newly initialized: none" in capsys.readouterr().err
    before, after = read_checkpoint(source)["state_dict"], weights_at_start(in_tmp_dir / "run")
    assert all(torch.allclose(value, after[name], atol=1e-8) for name, value in before.items())
    assert read_checkpoint(in_tmp_dir / "run" / "checkpoints" / "last.ckpt")["frames"] == 2 * 8 * 160


def test_memo_starts_from_a_full_context_transformer(trained, in_tmp_dir, capsys):
    source = trained / "full_context" / "checkpoints" / "last.ckpt"
    assert train("run", 80, f"checkpoint={source}", "algorithm.learning_rate=1e-12") == 0
    assert "newly initialized: summary_queries" in capsys.readouterr().err
    before, after = read_checkpoint(source)["state_dict"], weights_at_start(in_tmp_dir / "run")
    assert all(torch.allclose(value, after[name], atol=1e-8) for name, value in before.items())


def test_a_baseline_starts_from_its_own_kind(trained, in_tmp_dir):
    source = trained / "lstm" / "checkpoints" / "last.ckpt"
    assert train("run", 80, f"checkpoint={source}", "baseline=lstm", "algorithm.learning_rate=1e-12") == 0
    before, after = read_checkpoint(source)["state_dict"], weights_at_start(in_tmp_dir / "run")
    assert all(torch.allclose(value, after[name], atol=1e-8) for name, value in before.items())


def test_a_run_starts_from_a_registered_model_of_the_store_that_it_is_logged_to(in_tmp_dir, monkeypatch, capsys):
    (in_tmp_dir / "elsewhere").mkdir()
    store = f"logger.tracking_uri=sqlite:///{in_tmp_dir}/mlflow.db"
    assert train("first", 40, "logger=mlflow") == 0
    assert main(["register", "run_dir=first", "name=tiny"]) == 0
    monkeypatch.chdir(in_tmp_dir / "elsewhere")
    assert train("run", 80, "checkpoint=models:/tiny/1", "logger=mlflow", store) == 0
    assert "weights from models:/tiny/1, trained for 640 frames; newly initialized: none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("memory", "overrides", "message"),
    [
        ("lstm", [], "none of its weights fit a MemoTransformer"),
        ("none", ["model.d_ff=64"], "has a different architecture: model.d_ff=64 (checkpoint: 32);"),
        ("none", ["encoder.in_keys=[observation]"], "first weight that does not fit: encoder.projection.weight"),
        ("nowhere", [], "no such file"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(memory, overrides, message, trained, in_tmp_dir, capsys):
    source = trained / memory / "checkpoints" / "last.ckpt"
    assert train("run", 40, f"checkpoint={source}", *overrides) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    assert not (in_tmp_dir / "run").exists()
