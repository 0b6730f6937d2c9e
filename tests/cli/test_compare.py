"""memo compare: its table holds the runs' own figures, and it is honest about what they can tell."""

import json
import math

import numpy as np
import pytest

from memo_lightning.cli.main import main
from memo_lightning.evaluation.statistics import estimate_over_seeds, interquartile_mean

TINY = [
    "debug=smoke",
    "total_frames=640",
    "env.trial_length=40",
    "env.episode_length=10",
    "collector.n_envs=8",
    "model.d_model=16",
    "model.d_ff=32",
    "model.segment_length=10",
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


def test_groups_hold_their_runs_figures(store, monkeypatch, capsys):
    monkeypatch.chdir(store)
    capsys.readouterr()
    assert main(["compare"]) == 0
    said = capsys.readouterr().out
    groups = {group["memory"]: group for group in json.loads((store / "comparison/comparison.json").read_text())}
    metrics = {name: json.loads((store / name / "metrics.json").read_text()) for name in "abcde"}
    memo, lstm = groups["memo"], groups["lstm"]
    assert memo["seeds"] == [0, 1, 2], "the seed that ran twice counts once"
    returns = [metrics[name]["return_per_trial"] for name in "bcd"]
    assert memo["return_per_trial"]["mean"] == pytest.approx(sum(returns) / 3), "the middle half of three is all"
    assert min(returns) <= memo["return_per_trial"]["low"] <= memo["return_per_trial"]["high"] <= max(returns)
    assert memo["memory_bytes"] == metrics["a"]["memory_bytes"]
    assert memo["learning_curve"]["mean"][-1] == pytest.approx(
        np.mean([metrics[name]["history"][-1]["return_per_trial"] for name in "bcd"])
    )
    quarters = np.mean([metrics[name]["return_by_quarter"] for name in "bcd"], axis=0)
    assert memo["in_context_curve"]["mean"] == pytest.approx(quarters / 10), "reward per step"
    assert lstm["return_per_trial"] == {"mean": metrics["e"]["return_per_trial"], "low": None, "high": None}
    assert "one seed: none" in said
    assert "Few seeds" in said
    assert (store / "comparison/comparison.md").read_text() in said
    assert (store / "comparison/comparison.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_compared_is_one_line(store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(store)
    for override, message in {
        "experiment_name=memo-lightening": "did you mean memo-lightning",
        "study=none": "no finished run study=none",
        "+tags.memory=gru": "no finished run memory=gru",
        "group_by=colour": "has no such tag; it has ",
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
