"""The commands as a user runs them: their files, output and exit status."""

import json
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
import torch
import yaml
from mlflow import MlflowClient

from memo_lightning.cli.main import main
from memo_lightning.errors import UserError
from memo_lightning.policies.checkpoint import read_checkpoint
from tiny import TINY_TRAINING, without_times

TINY = [
    *TINY_TRAINING,
    "total_frames=960",
]


def train(*overrides):
    return main(["train", *TINY, *overrides])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the directory of a tiny finished run, and the directory it was started from."""
    start = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(start)
        assert train("run_dir=first") == 0
    return start / "first"


def evaluate(run_dir, *overrides):
    return main(["evaluate", f"checkpoint={run_dir}/checkpoints/last.ckpt", "n_trials=6", "n_envs=4", *overrides])


def test_train_leaves_what_the_contract_names(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["frames"] == 960
    assert len(metrics["return_by_quarter"]) == 4
    assert sum(metrics["return_by_quarter"]) == pytest.approx(metrics["return_per_trial"])
    assert (metrics["seed"], metrics["baseline"], metrics["env"]) == (0, "memo", "dark_key_to_door")
    assert metrics["frames_per_second"] > 0
    assert metrics["wall_seconds"] > 0
    assert (trained / "in_context_curve.png").read_bytes().startswith(b"\x89PNG")
    assert yaml.safe_load((trained / "config.yaml").read_text())["model"]["d_model"] == 16
    assert [path.name for path in (trained / "checkpoints").iterdir()] == ["last.ckpt"]


def test_train_leaves_an_mlflow_run(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    client = MlflowClient(f"sqlite:///{trained.parent}/mlflow.db")
    run = client.get_run(metrics["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["model/d_model"] == "16"
    assert {k: run.data.tags[k] for k in ("memory", "environment", "seed")} == {
        "memory": "memo",
        "environment": "dark_key_to_door",
        "seed": "0",
    }
    history = client.get_metric_history(run.info.run_id, "train/return_per_trial")
    assert [point.step for point in history] == [320, 640, 960], "frames are the x-axis"
    assert [point.value for point in history] == [point["return_per_trial"] for point in metrics["history"]]
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert names >= {"config.yaml", "metrics.json", "in_context_curve.png", "last.ckpt"}


def test_same_seed_same_figures_and_weights(trained, in_tmp_dir):
    assert train("run_dir=second") == 0
    assert train("run_dir=other", "seed=1") == 0

    def figures(run_dir):
        metrics = json.loads((run_dir / "metrics.json").read_text())
        return {k: v for k, v in without_times(metrics).items() if k != "mlflow_run_id"}

    def weights(run_dir):
        return read_checkpoint(run_dir / "checkpoints" / "last.ckpt")["state_dict"]

    assert figures(trained) == figures(in_tmp_dir / "second")
    assert all(torch.equal(w, weights(in_tmp_dir / "second")[name]) for name, w in weights(trained).items())
    assert figures(trained) != figures(in_tmp_dir / "other")


def test_evaluate_writes_figures_and_adds_them_to_the_run(trained, capsys, monkeypatch):
    monkeypatch.chdir(trained.parent)
    assert evaluate(trained) == 0
    figures = json.loads((trained / "evaluation" / "evaluation.json").read_text())
    assert figures["split"] == "held_out"
    assert figures["n_trials"] == 8, "whole batches of environments"
    low, high = figures["return_per_trial_interval"]
    assert low <= figures["return_per_trial"] <= high
    assert sum(figures["in_context_curve"]["reward"]) == pytest.approx(figures["return_per_trial"])
    assert len(figures["by_episode"]["return"]) >= 4
    assert "return per trial" in capsys.readouterr().out
    client = MlflowClient(f"sqlite:///{trained.parent}/mlflow.db")
    run = client.get_run(figures["mlflow_run_id"])
    assert run.data.metrics["val/held_out/40_steps/return_per_trial"] == figures["return_per_trial"]
    folder = "evaluation/held_out_40_steps"
    logged = {artifact.path.split("/")[-1] for artifact in client.list_artifacts(run.info.run_id, folder)}
    assert logged == {"evaluation.json", "in_context_curve.png", "summary_attention.png"}


def test_evaluate_can_make_trials_longer(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(trained.parent)
    assert evaluate(trained, "trial_multiplier=3", f"run_dir={tmp_path}", "deterministic=true") == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["trial_length"] == 120


def test_mistakes_in_evaluate_are_one_line(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = trained / "checkpoints" / "last.ckpt"
    truncated, foreign = tmp_path / "truncated.ckpt", tmp_path / "foreign.ckpt"
    truncated.write_bytes(checkpoint.read_bytes()[:5000])
    torch.save({"weights": torch.zeros(3)}, foreign)
    cases = {
        "checkpoint=null": "must be the path of a checkpoint",
        "checkpoint=missing.ckpt": "checkpoint=missing.ckpt: no such file",
        f"checkpoint={truncated}": "truncated",
        f"checkpoint={foreign}": "it lacks config, frames, mlflow_run_id, policy_spec, state_dict",
        f"checkpoint={checkpoint} model.d_model=32": "model.d_model=32 (checkpoint: 16)",
        f"checkpoint={checkpoint} model.width=32": "model.width: the checkpoint's memory has no such setting",
        f"checkpoint={checkpoint} env.size=4": "env.size: the checkpoint's environment has no such setting",
        f"checkpoint={checkpoint} env.room_size=4": "env.room_size=4: observations differ from those in training",
        f"checkpoint={trained.parent}": "neither a run (no checkpoints/last.ckpt)",
        f"checkpoint={checkpoint} device=abacus": "device=abacus: must be cpu or cuda",
        f"checkpoint={checkpoint} split=test": "split='test': must be one of",
        f"checkpoint={checkpoint} n_trials=0": "n_trials=0: must be at least 1",
    }
    for overrides, message in cases.items():
        assert main(["evaluate", *overrides.split()]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1, error
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.summary_length=11", "summary_length=11: must be at least 1 and at most segment_length=10"),
        ("model.d_model=18", "d_model=18: must be divisible by n_heads=4"),
        (
            "model.segment_length=41",
            "segment_length=41: must be at most 40, the steps of a rollout; set model.segm",
        ),
        ("total_frames=-5", "total_frames=-5: must be at least 1"),
        ("algorithm.learning_rate=0", "algorithm.learning_rate=0: must be greater than 0"),
        ("algorithm.n_minibatches=9", "n_minibatches=9: must be at most collector.n_envs=8"),
        ("trainer.devices=-3", "trainer: "),
        ("trainer.accelerator=abacus", "abacus"),
        ("encoder.in_keys=[sight]", "no 'sight'"),
        ("logger.tracking_uri=gopher://x", "logger.tracking_uri='gopher://x': cannot be used"),
        ("run_dir=/proc/run", "run_dir=/proc/run: must be writable"),
        ("run_dir=file", "run_dir=file: must be a directory"),
        ("nonsense=1", "unknown override 'nonsense'"),
        ("callbacks=null", "callbacks=null: no such option"),
        ("baseline=retrieval baseline.top_k=99", "top_k=99: must be at most 8, the summary tokens of 40 steps"),
    ],
)
def test_mistakes_in_train_are_one_line_and_leave_nothing(override, message, in_tmp_dir, capsys):
    (in_tmp_dir / "file").touch()
    assert train(*override.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    assert [path.name for path in in_tmp_dir.iterdir() if path.name != "mlflow.db"] == ["file"]


def test_a_run_without_a_complete_trial_says_so_in_its_report(in_tmp_dir, capsys):
    assert train("run_dir=run", "collector.rollout_length=20") == 0
    assert "no trial completed" in capsys.readouterr().out
    metrics = json.loads((in_tmp_dir / "run" / "metrics.json").read_text())
    assert (metrics["frames"], metrics["return_per_trial"], metrics["n_trials_averaged"]) == (960, None, 0)


def test_a_directory_that_holds_a_run_is_left_alone(trained, capsys):
    before = (trained / "metrics.json").read_text()
    assert train(f"run_dir={trained}") == 2
    assert f"resume={trained}" in capsys.readouterr().err
    assert (trained / "metrics.json").read_text() == before


@pytest.mark.slow
def test_ctrl_c_leaves_a_usable_checkpoint_and_a_killed_run(in_tmp_dir):
    command = [
        sys.executable,
        "-m",
        "memo_lightning.cli.train",
        *TINY,
        "total_frames=100000000",
        "run_dir=run",
    ]
    process = subprocess.Popen(
        command,
        cwd=in_tmp_dir,
        stderr=subprocess.PIPE,
        text=True,
        # Background jobs of a shell ignore Ctrl-C, and their children inherit this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        for line in process.stderr:
            if "frames/s" in line:
                break
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "run/checkpoints/last.ckpt" in error
    assert evaluate(in_tmp_dir / "run", "run_dir=evaluation") == 0
    client = MlflowClient(f"sqlite:///{in_tmp_dir}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("memo-lightning").experiment_id])
    assert run.info.status == "KILLED"


@pytest.mark.slow
def test_ui_serves_on_the_loopback_address_only(trained, free_port):
    command = [sys.executable, "-m", "memo_lightning.cli.main", "ui", f"port={free_port}"]
    process = subprocess.Popen(command, cwd=trained.parent, stdout=subprocess.PIPE, text=True)
    try:
        assert f"until Ctrl-C; open http://127.0.0.1:{free_port}/" in process.stdout.readline()
        page, deadline = b"", time.monotonic() + 300  # start-up time depends on the machine
        while not page and process.poll() is None and time.monotonic() < deadline:
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{free_port}", timeout=60).read()
            except OSError:
                time.sleep(0.5)
        assert b"MLflow" in page
    finally:
        process.terminate()
        process.wait()


def test_ui_needs_a_store_and_a_port(in_tmp_dir, capsys):
    assert main(["ui"]) == 2
    assert "no such store yet" in capsys.readouterr().err
    assert main(["ui", "port=0"]) == 2
    assert "port=0: must be between" in capsys.readouterr().err


def test_help_names_verbs_groups_and_settings(capsys):
    assert main([]) == 0
    assert "evaluate" in capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "dark_key_to_door_9x9" in text
    assert "segment_length: 50" in text
    assert main(["trian"]) == 2
    assert "did you mean train" in capsys.readouterr().err


def test_checkpoints_load_without_pickle(trained):
    checkpoint = read_checkpoint(trained / "checkpoints" / "last.ckpt")
    assert checkpoint["frames"] == 960
    assert checkpoint["config"]["model"]["d_model"] == 16
    with pytest.raises(UserError):
        read_checkpoint(trained / "config.yaml")


def test_streaming_is_held_against_full_memory_on_the_same_trials(trained, tmp_path, monkeypatch, capsys):
    checkpoint = read_checkpoint(trained / "checkpoints" / "last.ckpt")
    for weight in checkpoint["state_dict"].values():
        weight *= 5  # after so little training, memory would hardly affect the actions
    trained = tmp_path / "run"
    (trained / "checkpoints").mkdir(parents=True)
    torch.save(checkpoint, trained / "checkpoints" / "last.ckpt")
    monkeypatch.chdir(tmp_path)
    long_trials = ["trial_multiplier=4", "n_trials=64", "n_envs=64"]
    assert evaluate(trained, *long_trials, "memory_budget=18", f"run_dir={tmp_path}/a") == 0
    assert "with full memory" in capsys.readouterr().out
    assert evaluate(trained, *long_trials, f"run_dir={tmp_path}/b") == 0
    streaming, full = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in "ab")
    assert streaming["full_memory"]["return_by_quarter"] == full["return_by_quarter"]
    assert streaming["return_by_quarter"] != full["return_by_quarter"]
    assert evaluate(trained, "memory_budget=11", f"run_dir={tmp_path}/c") == 2
    assert "memory_budget=11: must be at least 12" in capsys.readouterr().err


def test_frames_that_are_rounded_up_to_whole_rollouts_are_said(in_tmp_dir, capsys):
    assert train("run_dir=run", "logger=none", "total_frames=700") == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert "960 frames (total_frames=700 in whole rollouts of 8 x 40 steps)" in first
    assert json.loads((in_tmp_dir / "run" / "metrics.json").read_text())["frames"] == 960
    assert main(["train", "resume=run", "total_frames=1280"]) == 0
    assert ", 1,280 frames, seed 0" in capsys.readouterr().err.splitlines()[0]
