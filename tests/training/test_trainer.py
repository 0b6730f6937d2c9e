"""Settings of Lightning's Trainer: applied, or rejected before anything is written, with what to use instead."""

import re
from types import SimpleNamespace

import pytest
import torch

from memo_lightning.cli.main import main
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.models import LSTM, MemoTransformer
from memo_lightning.training.checkpoint_io import AtomicCheckpointIO
from memo_lightning.training.trainer import build_trainer, check_cuda_graphs
from tiny import TINY_TRAINING


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("gradient_clip_val=1.0", "algorithm.max_grad_norm"),
        ("accumulate_grad_batches=2", "algorithm.n_minibatches"),
        ("max_steps=10", "total_frames"),
        ("max_epochs=2", "total_frames"),
        ("limit_train_batches=3", "total_frames"),
        ("val_check_interval=3", "memo evaluate"),
        ("fast_dev_run=true", "debug=smoke"),
        ("default_root_dir=x", "run_dir"),
        ("gradient_clip=1.0", "trainer: Trainer: got an unexpected keyword argument 'gradient_clip'"),
        ("max_time=1", "trainer: "),
    ],
)
@pytest.mark.parametrize("plus", ["", "+"])
def test_settings_that_are_not_followed_are_refused_before_anything_is_written(
    plus, setting, message, in_tmp_dir, capsys
):
    assert main(["train", *TINY_TRAINING, "total_frames=640", f"{plus}trainer.{setting}"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.startswith("memo: trainer")
    assert error.count("\n") == 1
    assert not list(in_tmp_dir.iterdir())


def test_what_is_suggested_is_a_setting():
    config = compose_config("train", ["callbacks.progress=null", "callbacks.checkpointing.every_n_rollouts=2"])
    assert config.callbacks.progress is None
    assert {"max_grad_norm", "n_minibatches"} <= set(config.algorithm)


def test_other_settings_reach_lightning():
    config = compose_config("train", ["trainer.detect_anomaly=true", "trainer.max_time=00:01:00:00"])
    trainer = build_trainer(config, [], AtomicCheckpointIO())
    assert trainer._detect_anomaly
    assert trainer.max_epochs == 1


def test_without_a_progress_bar_there_is_none(in_tmp_dir, capsys):
    overrides = ["logger=none", "run_dir=run", "total_frames=640", "callbacks.progress=null"]
    assert main(["train", *TINY_TRAINING, *overrides]) == 0
    assert "frames/s |" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["report", "metrics", "checkpointing"])
def test_what_every_run_leaves_cannot_be_switched_off(name, in_tmp_dir, capsys):
    assert main(["train", *TINY_TRAINING, f"callbacks.{name}=null"]) == 2
    assert f"callbacks.{name}=null: cannot be switched off" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["train", "evaluate", "benchmark"])
@pytest.mark.parametrize("seed", ["-1", "4294967296", "null", "true"])
def test_seeds_that_no_generator_takes_are_refused(verb, seed, in_tmp_dir, capsys):
    assert main([verb, f"seed={seed}"]) == 2
    error = capsys.readouterr().err
    assert re.match(r"memo: seed=.*: must be (from 0 to 4294967295|an integer)\n$", error)
    assert not list(in_tmp_dir.iterdir())


def test_the_largest_seed_trains(in_tmp_dir):
    overrides = ["logger=none", "run_dir=run", "total_frames=320", "seed=4294967295"]
    assert main(["train", *TINY_TRAINING, *overrides]) == 0


def test_a_study_refuses_what_its_trials_would(in_tmp_dir, capsys):
    (in_tmp_dir / "study.yaml").write_text("train: []\nspace: {algorithm.gamma: {type: float, low: 0.5, high: 0.9}}\n")
    for override, message in {
        "seed=-1": "seed=-1: must be from 0",
        "trainer.max_steps=3": "trainer.max_steps=3: has no effect in memo train",
    }.items():
        assert main(["sweep", "study.yaml", override]) == 2
        assert message in capsys.readouterr().err


def test_cuda_graphs_are_refused_where_nothing_can_be_recorded(in_tmp_dir, capsys):
    assert main(["train", *TINY_TRAINING, "total_frames=640", "cuda_graphs=true"]) == 2
    assert capsys.readouterr().err == (
        "memo: cuda_graphs=True: must be false on 1 x cpu; true needs one GPU and one process "
        "(trainer=gpu trainer.devices=1)\n"
    )
    assert not list(in_tmp_dir.iterdir())
    sizes = {"d_model": 8, "n_layers": 1, "n_heads": 2, "d_ff": 8, "segment_length": 5, "summary_length": 1}
    memo, lstm = MemoTransformer(**sizes), LSTM(8, 1)

    def trainer(device, world_size=1):
        return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), world_size=world_size)

    check_cuda_graphs(True, trainer("cuda"), memo)
    check_cuda_graphs(False, trainer("cpu", 2), lstm)
    with pytest.raises(UserError, match="cuda_graphs=True: must be false on 2 x cuda; true needs one GPU"):
        check_cuda_graphs(True, trainer("cuda", 2), memo)
    with pytest.raises(UserError, match="cuda_graphs=True: must be false for LSTM with these settings"):
        check_cuda_graphs(True, trainer("cuda"), lstm)
    with pytest.raises(UserError, match="cuda_graphs=1: must be true or false"):
        check_cuda_graphs(1, trainer("cuda"), memo)
