"""memo compare: its table holds the runs' own figures, and it is honest about what they can tell."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from memo_lightning.cli.main import main
from memo_lightning.evaluation.statistics import estimate_over_seeds, interquartile_mean
from tiny import TINY_TRAINING

TINY = [
    *TINY_TRAINING,
    "total_frames=640",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three seeds of Memo, one of an LSTM; the first seed of Memo twice."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for baseline, seed, name in (("none", 0, "a"), ("none", 0, "b"), ("none", 1, "c"), ("none", 2, "d")):
            assert main(["train", *TINY, f"baseline={baseline}", f"seed={seed}", f"run_dir={name}"]) == 0
        assert main(["train", *TINY, "baseline=lstm", "seed=0", "run_dir=e"]) == 0
    return folder


def metrics_of(store):
    return {path.parent.name: json.loads(path.read_text()) for path in store.glob("?/metrics.json")}


def compare(capsys, *overrides):
    """Compare, and return the groups by name and what was said."""
    capsys.readouterr()
    assert main(["compare", *overrides]) == 0
    folder = next((o.partition("=")[2] for o in overrides if o.startswith("run_dir=")), "comparison")
    groups = {group["name"]: group for group in json.loads(Path(folder, "comparison.json").read_text())}
    return groups, capsys.readouterr().out


def evaluated(store, name, **changes):
    """Put an evaluation beside a run in MLflow, as memo evaluate does; return its return per trial."""
    kind = {"split": "held_out", "trial_length": 40, "memory_budget": None, "deterministic": False, **changes}
    budget = f"_budget_{kind['memory_budget']}" if kind["memory_budget"] else ""
    score = 1.0 + "abcde".index(name)
    figures = {**kind, "n_trials": 4, "return_per_trial": score, "in_context_curve": {"reward": [score / 4] * 4}}
    run_id = metrics_of(store)[name]["mlflow_run_id"]
    path = f"evaluation/{kind['split']}_{kind['trial_length']}_steps{budget}/evaluation.json"
    MlflowClient(f"sqlite:///{store}/mlflow.db").log_dict(run_id, figures, path)
    return score


def test_groups_hold_their_runs_figures(store, monkeypatch, capsys):
    monkeypatch.chdir(store)
    groups, said = compare(capsys)
    metrics = metrics_of(store)
    memo, lstm = groups["memo"], groups["lstm"]
    assert memo["seeds"] == [0, 1, 2], "the seed that ran twice counts once"
    returns = [metrics[name]["return_per_trial"] for name in "bcd"]
    assert memo["return_per_trial"]["mean"] == pytest.approx(sum(returns) / 3), "the middle half of three is all"
    assert min(returns) <= memo["return_per_trial"]["low"] <= memo["return_per_trial"]["high"] <= max(returns)
    assert memo["memory_bytes"] == metrics["a"]["memory_bytes"]
    assert memo["flops_per_step"] == pytest.approx(metrics["a"]["flops_per_step"])
    assert lstm["flops_per_step"] == metrics["e"]["flops_per_step"]
    run = MlflowClient(f"sqlite:///{store}/mlflow.db").get_run(metrics["a"]["mlflow_run_id"])
    assert run.data.metrics["flops_per_step"] == metrics["a"]["flops_per_step"]
    assert memo["learning_curve"]["mean"][-1] == pytest.approx(
        np.mean([metrics[name]["history"][-1]["return_per_trial"] for name in "bcd"])
    )
    quarters = np.mean([metrics[name]["return_by_quarter"] for name in "bcd"], axis=0)
    assert memo["in_context_curve"]["mean"] == pytest.approx(quarters / 10), "reward per step"
    assert lstm["return_per_trial"] == {"mean": metrics["e"]["return_per_trial"], "low": None, "high": None}
    assert "one seed: none" in said
    assert "Few seeds" in said
    assert "measured at: the end of training" in said
    assert "Not seeds of one thing" not in said
    assert (store / "comparison/comparison.md").read_text() in said
    assert (store / "comparison/comparison.png").read_bytes().startswith(b"\x89PNG")


def test_only_evaluations_of_one_kind_are_held_against_each_other(store, monkeypatch, capsys):
    monkeypatch.chdir(store)
    groups, said = compare(capsys)
    end_of_training = {name: group["return_per_trial"] for name, group in groups.items()}
    for name in "bcd":
        evaluated(store, name, trial_length=320)
    evaluated(store, "e")
    groups, said = compare(capsys)
    assert {name: group["return_per_trial"] for name, group in groups.items()} == end_of_training
    assert {group["score_of"] for group in groups.values()} == {"the end of training"}
    assert "**Evaluations left out**" in said

    evaluated(store, "e", trial_length=320)  # now there is one that all share
    groups, said = compare(capsys)
    assert {group["score_of"] for group in groups.values()} == {"held_out tasks, 320 steps"}
    assert groups["memo"]["return_per_trial"]["mean"] == pytest.approx(3.0)
    assert groups["memo"]["in_context_curve"]["mean"] == pytest.approx([3.0 / 320] * 4), "reward per step"

    for name in "bcd":
        evaluated(store, name)
    for name in "bcde":  # a later one, that is no reason to use it
        evaluated(store, name, split="train", memory_budget=8)
    groups, said = compare(capsys)
    assert {group["score_of"] for group in groups.values()} == {"held_out tasks, 40 steps"}, "as long as in training"
    assert groups["lstm"]["return_per_trial"]["mean"] == 5.0
    assert "measured at: held_out tasks, 40 steps" in said


def test_settings_that_differ_are_named_or_compared(store, monkeypatch, capsys):
    monkeypatch.chdir(store)
    other = ["baseline=gru", "logger.experiment_name=other"]
    for seed, rate in ((0, 0.001), (1, 0.002)):
        assert (
            main(["train", *TINY, *other, f"seed={seed}", f"algorithm.learning_rate={rate}", f"run_dir=g{seed}"]) == 0
        )
    groups, said = compare(capsys, "experiment_name=other", "run_dir=other")
    assert groups["gru"]["differing_settings"] == {"algorithm/learning_rate": ["0.001", "0.002"]}
    assert "**Not seeds of one thing** (gru): the runs differ in algorithm/learning_rate 0.001, 0.002." in said

    groups, said = compare(capsys, "experiment_name=other", "run_dir=rates", "group_by=algorithm.learning_rate")
    slow, fast = groups["algorithm.learning_rate=0.001"], groups["algorithm.learning_rate=0.002"]
    assert (slow["seeds"], fast["seeds"]) == ([0], [1])
    assert slow["differing_settings"] == {}
    assert "| environment | algorithm.learning_rate |" in said
    assert "Not seeds of one thing" not in said

    groups, _ = compare(capsys, "experiment_name=other", "run_dir=frames", "group_by=total_frames")
    assert len(groups) == 1, "a setting whose difference is no reason to tell runs apart"


def test_what_cannot_be_compared_is_one_line(store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(store)
    for override, message in {
        "experiment_name=memo-lightening": "did you mean memo-lightning",
        "study=none": "no finished run study=none",
        "group_by=trial": "has no such tag and no such setting; it has the tags ",
        "+tags.memory=gru": "no finished run memory=gru",
        "group_by=model.colour": "has no such tag and no such setting; it has the tags ",
        "tracking_uri=sqlite:///other.db": "no such store yet",
    }.items():
        assert main(["compare", override]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_the_interquartile_mean_leaves_out_the_outer_quarters():
    values = np.array([-100.0, 1, 2, 3, 4, 5, 6, 1000])
    assert interquartile_mean(values) == 3.5
    estimate = estimate_over_seeds(values)
    assert estimate.low < 3.5 < estimate.high
    assert math.isnan(estimate_over_seeds(np.array([3.0])).low)
    same = estimate_over_seeds(np.array([2.0, 2.0, 2.0]))
    assert (same.low, same.mean, same.high) == (2, 2, 2)


def test_the_interval_covers_as_often_as_it_says():
    """Of 200 samples of 20 seeds, about 95 % of the intervals hold the true centre (a symmetric distribution's 0)."""
    rng = np.random.default_rng(0)
    estimate = estimate_over_seeds(rng.normal(size=(20, 200)))
    assert ((estimate.low < 0) & (estimate.high > 0)).mean() == pytest.approx(0.93, abs=0.05)
