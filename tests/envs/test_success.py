"""Success is reported by environments that define it, and by no others."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from memo_lightning.cli.main import main
from memo_lightning.config import compose_config
from memo_lightning.data.trial_record import TrialRecord
from memo_lightning.envs.build import build_env
from memo_lightning.evaluation.in_context import mean_over_episodes
from tiny import TINY_TRAINING


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


def record_of(target, *overrides):
    overrides = [f"env.target=own_envs:{target}", "env.trial_length=4", *overrides]
    env = build_env(compose_config("train", ["env=custom", *overrides]).env, 16, 0)
    rollout = env.rollout(20, break_when_any_done=False)
    return env, rollout, TrialRecord.of(rollout)


@pytest.mark.parametrize("target", ["Guess", "Batched", "make_single_torchrl"])
def test_an_environment_that_never_says_has_none(target):
    _, rollout, record = record_of(target)
    assert rollout["next", "episode_end"].any()
    assert "success" not in mean_over_episodes(record)


def test_one_whose_return_decides_has_it():
    _, rollout, record = record_of("Guess", "+env.success_return=1")
    wins = (rollout["next", "episode_return"][rollout["next", "episode_end"]] >= 1).float().mean()
    assert 0 < wins < 1
    assert mean_over_episodes(record)["success"] == pytest.approx(float(wins))


def test_one_that_speaks_of_successes_only_means_that_the_others_are_none():
    _, rollout, record = record_of("SpeaksOfSuccess")
    wins = rollout["next", "reward"][rollout["next", "episode_end"]].mean()
    assert 0 < wins < 1
    assert mean_over_episodes(record)["success"] == pytest.approx(float(wins))


def test_the_specs_tell_where_it_can_be_known_before(make_env):
    assert "success" not in record_of("Batched")[0].observation_spec.keys()
    assert "success" in make_env(2, 0).observation_spec.keys()


def test_metrics_and_tables_leave_it_out(in_tmp_dir, capsys):
    task = ["env=custom", "env.target=own_envs:Guess", "env.trial_length=8", "env.episodes_per_trial=2"]
    sizes = [word for word in TINY_TRAINING if not word.startswith("env.")]
    arguments = [*sizes, *task, "model.segment_length=8", "total_frames=640", "run_dir=run"]
    assert main(["check-env", *arguments]) == 0
    remark = "success is never reported, so results lack it; report it, or set env.success_return for Gymnasium"
    assert remark in capsys.readouterr().out
    assert main(["train", *arguments]) == 0
    assert main(["evaluate", "checkpoint=run", "n_trials=8"]) == 0
    output = capsys.readouterr().out
    assert "return per trial" in output
    assert "success" not in output
    evaluation = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert "success" not in {*evaluation, *evaluation["by_episode"], *evaluation["by_steps"]}
    run = MlflowClient(f"sqlite:///{in_tmp_dir}/mlflow.db").get_run(evaluation["mlflow_run_id"])
    names = list(run.data.metrics)
    assert any(name.startswith("val/") for name in names)
    assert not [name for name in names if "success" in name]
