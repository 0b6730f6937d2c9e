"""Evaluations: they match TorchRL's own rollouts, need little memory, and name what was measured."""

import json

import pytest
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient

from memo_lightning.cli.main import main
from memo_lightning.config import compose_config
from memo_lightning.data.trial_record import TrialRecord
from memo_lightning.evaluation.evaluate import _env_config
from memo_lightning.evaluation.trials import _run_round, acting, run_trials
from memo_lightning.tracking.evaluations import EvaluationKind

SMALL = [
    "collector.n_envs=4", "algorithm.n_minibatches=1", "model.d_model=16", "model.d_ff=16", "model.n_heads=2",
    "model.n_layers=1", "model.segment_length=5", "model.summary_length=2",
]  # fmt: skip


def test_trials_are_those_of_a_rollout(make_env, make_policy):
    env = make_env(5, 0)
    policy = make_policy(env).eval()
    with acting(deterministic=False):
        record, first = run_trials(env, policy, 10, 12, seed=3)
        policy.reset_state()
        torch.manual_seed(3)
        env.set_seed(3)
        rollouts = [env.rollout(12, policy, break_when_any_done=False) for _ in range(2)]
    expected = TrialRecord.concatenate([TrialRecord.of(rollout) for rollout in rollouts])
    for name, value in expected.as_tensors().items():
        torch.testing.assert_close(record.as_tensors()[name], value, equal_nan=True)
    torch.testing.assert_close(first.inputs, policy.encode(rollouts[0][0]))
    assert torch.equal(first.ends, rollouts[0][0]["next", "episode_end"].flatten())
    assert torch.equal(first.successes, rollouts[0][0]["next", "success"].flatten())


def test_what_is_kept_of_a_step_does_not_grow_with_what_is_observed(make_env, make_policy):
    env = make_env(5, 0)
    policy = make_policy(env).eval()
    with acting(deterministic=False):
        steps, inputs = _run_round(env, policy, 12, lambda: None, keeps_inputs=False)
    assert sum(value.element_size() for value in steps.values(True, True)) <= 16  # bytes
    assert not {"observation", "previous_step"} & set(steps.keys(True))
    assert inputs.numel() == 0


@pytest.fixture(scope="module")
def cart_pole(tmp_path_factory):
    """Return a run with one-episode trials of different lengths, and its store."""
    folder = tmp_path_factory.mktemp("cart_pole")
    store = f"sqlite:///{folder}/mlflow.db"
    train = ["env=gymnasium", "env.id=CartPole-v1", "env.trial_length=60", "total_frames=240"]
    assert main(["train", *train, *SMALL, f"run_dir={folder}/run", f"logger.tracking_uri={store}"]) == 0
    return folder / "run", MlflowClient(store)


def evaluate(run, *overrides):
    assert main(["evaluate", f"checkpoint={run}", "n_trials=3", "n_envs=1", *overrides]) == 0
    return json.loads((run / "evaluation" / "evaluation.json").read_text())


def test_an_evaluation_is_named_by_the_length_that_was_asked_for(cart_pole, capsys):
    run, client = cart_pole
    metrics = evaluate(run)
    assert metrics["trial_length"] == 60 != metrics["mean_trial_length"]
    assert metrics["n_trials"] == 3
    evaluate(run, "trial_multiplier=2", "memory_budget=15", "split=train")
    stored = client.get_run(metrics["mlflow_run_id"])
    names = {name for name in stored.data.metrics if name.startswith("val/")}
    held_out, budgeted = "val/held_out/60_steps", "val/train/120_steps/budget_15"
    values = ["return_per_trial", "success", *(f"return_quarter_{k}" for k in (1, 2, 3, 4))]
    assert names == {f"{name}/{value}" for name in (held_out, budgeted) for value in values}
    folders = {artifact.path for artifact in client.list_artifacts(metrics["mlflow_run_id"], "evaluation")}
    assert folders == {"evaluation/held_out_60_steps", "evaluation/train_120_steps_budget_15"}
    files = {a.path.rpartition("/")[2] for a in client.list_artifacts(metrics["mlflow_run_id"], folders.pop())}
    assert {"evaluation.json", "in_context_curve.png"} <= files
    output = capsys.readouterr()
    assert "evaluating" in output.err
    assert "3 trials of held_out tasks, at most 60 steps each, 1 at a time; writing to" in output.err
    assert "next: memo evaluate" in output.out


def test_an_evaluation_that_is_repeated_adds_no_second_point(cart_pole, capsys):
    run, client = cart_pole

    def points():
        names = client.get_run(first["mlflow_run_id"]).data.metrics
        history = {name: client.get_metric_history(first["mlflow_run_id"], name) for name in names}
        return {n: [(p.step, p.value) for p in h] for n, h in history.items() if n.startswith("val/all/60_steps")}

    first = evaluate(run, "split=all", "seed=1")
    once = points()
    assert once["val/all/60_steps/return_per_trial"] == [(240, first["return_per_trial"])]
    assert evaluate(run, "split=all", "seed=1")["return_per_trial"] == first["return_per_trial"]
    assert points() == once
    other = evaluate(run, "split=all", "seed=2", "n_trials=5")
    assert other["return_per_trial"] != first["return_per_trial"]
    sampled = "val/all/60_steps/n_trials_5_n_envs_1_seed_2/return_per_trial"
    assert points()[sampled] == [(240, other["return_per_trial"])]
    assert {name: points()[name] for name in once} == once
    assert "not logged" not in capsys.readouterr().err


def test_an_evaluation_with_changed_settings_is_another_measurement(cart_pole):
    run, client = cart_pole
    changed = evaluate(run, "deterministic=true", "+env.step_timeout=9.0", "+model.segment_length=4")
    parts = ["held_out", "60_steps", "deterministic", "model.segment_length_4"]
    metrics = client.get_run(changed["mlflow_run_id"]).data.metrics
    assert metrics["/".join(["val", *parts, "return_per_trial"])] == changed["return_per_trial"]
    folders = {artifact.path for artifact in client.list_artifacts(changed["mlflow_run_id"], "evaluation")}
    assert f"evaluation/{'_'.join(parts)}" in folders
    kind = EvaluationKind.of(changed)
    assert kind == EvaluationKind("held_out", 60, None, True, ("model.segment_length=4",))
    assert str(kind) == "held_out tasks, 60 steps, most likely actions, model.segment_length=4"
    assert EvaluationKind.of({key: changed[key] for key in changed if key not in ("env", "model")}).changes == (), (
        "as earlier versions wrote them"
    )


def test_the_attention_is_drawn_over_one_trial_and_not_where_that_is_too_short(cart_pole):
    run, _ = cart_pole
    drawn = {segment: evaluate(run, f"model.segment_length={segment}")["files"] for segment in (5, 59)}
    assert "summary_attention.png" in drawn[5]
    assert "summary_attention.png" not in drawn[59]


def test_success_is_in_bins_that_fit_the_episodes_unless_told_otherwise(in_tmp_dir):
    train = ["env.trial_length=60", "env.episode_length=10", "total_frames=240", "logger=none", "run_dir=run"]
    assert main(["train", *SMALL, *train]) == 0
    table = evaluate(in_tmp_dir / "run")["by_steps"]
    assert table["steps"] == [10, 20, 30, 40, 50, 60]
    assert min(table["n_episodes"]) > 0
    assert evaluate(in_tmp_dir / "run", "bin_steps=25")["by_steps"]["steps"] == [25, 50, 60]


def test_plots_are_named_by_memory_and_environment_and_not_by_a_path(cart_pole, monkeypatch):
    run, _ = cart_pole
    titles = []
    suptitle = Figure.suptitle
    monkeypatch.setattr(Figure, "suptitle", lambda figure, text: (titles.append(text), suptitle(figure, text)))
    evaluate(run, "model.segment_length=5")
    assert [title.splitlines()[0] for title in titles] == [
        "memo on CartPole-v1: 3 trials of held_out tasks",
        "memo on CartPole-v1: summaries in a trial of held_out tasks",
    ]


def test_there_are_no_more_workers_than_environments():
    trained = {"trial_length": 60, "workers": 10}
    assert _env_config(compose_config("evaluate", ["n_envs=4"]), trained)["workers"] == 4
    assert _env_config(compose_config("evaluate", ["n_trials=3"]), trained)["workers"] == 3
    asked = compose_config("evaluate", ["n_envs=4", "+env.workers=6"])
    assert _env_config(asked, trained)["workers"] == 6, "as it was asked for"


def test_the_settings_are_checked(cart_pole, capsys):
    run, _ = cart_pole
    for override in ("bin_steps=0", "render_steps=0"):
        assert main(["evaluate", f"checkpoint={run}/checkpoints/last.ckpt", override]) == 2
        assert f"{override}: must be at least 1" in capsys.readouterr().err
    assert main(["evaluate", f"checkpoint={run}/checkpoints/last.ckpt", "render_steps=40000"]) == 2
    assert "render_steps=40000: must be at most 32,768" in capsys.readouterr().err


def test_rendering_leaves_a_video_and_a_page_in_the_folder_and_in_mlflow(cart_pole, capsys):
    run, client = cart_pole
    metrics = evaluate(run, "render=true", "split=all", "seed=5")
    assert metrics["files"][-2:] == ["trial.mp4", "trial.html"]
    page = (run / "evaluation" / "trial.html").read_text()
    assert "memo on CartPole-v1, a trial of all tasks" in page
    logged = client.list_artifacts(metrics["mlflow_run_id"], "evaluation/all_60_steps")
    assert {"trial.mp4", "trial.html"} <= {artifact.path.rpartition("/")[2] for artifact in logged}


def test_a_changed_setting_of_a_part_leaves_its_others_as_they_were_trained():
    config = compose_config("evaluate", ["env.dataset.n_houses=2", "trial_multiplier=8"])
    trained = {"trial_length": 10, "dataset": {"n_houses": None, "n_types": 3}, "sensors": ["columns"]}
    settings = _env_config(config, trained)
    assert settings == {
        "trial_length": 80,
        "dataset": {"n_houses": 2, "n_types": 3},
        "sensors": ["columns"],
        "split": "held_out",
    }
