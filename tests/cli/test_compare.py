"""memo compare: the table shows the runs' own numbers and claims no more than they support."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from memo_lightning.cli.main import main
from memo_lightning.config import compose_config
from memo_lightning.evaluation.statistics import estimate_over_seeds, interquartile_mean
from tiny import FEW_UPDATES, TINY_TRAINING

TINY = [
    *TINY_TRAINING,
    *FEW_UPDATES,
    "total_frames=640",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return a store with three seeds of Memo, the first of them twice, and one seed of an LSTM."""
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
    """Run the comparison; return the groups by name, and the output."""
    capsys.readouterr()
    assert main(["compare", *overrides]) == 0
    folder = next((o.partition("=")[2] for o in overrides if o.startswith("run_dir=")), "comparison")
    groups = {group["name"]: group for group in json.loads(Path(folder, "comparison.json").read_text())}
    return groups, capsys.readouterr().out


def evaluated(store, name, **changes):
    """Log an evaluation of a run to MLflow, as memo evaluate does; return its return per trial."""
    kind = {"split": "held_out", "trial_length": 40, "memory_budget": None, "deterministic": False, **changes}
    budget = f"_budget_{kind['memory_budget']}" if kind["memory_budget"] else ""
    score = 1.0 + "abcde".index(name)
    numbers = {**kind, "n_trials": 4, "return_per_trial": score, "in_context_curve": {"reward": [score / 4] * 4}}
    run_id = metrics_of(store)[name]["mlflow_run_id"]
    path = f"evaluation/{kind['split']}_{kind['trial_length']}_steps{budget}/evaluation.json"
    MlflowClient(f"sqlite:///{store}/mlflow.db").log_dict(run_id, numbers, path)
    return score


def test_groups_hold_their_runs_numbers(store, monkeypatch, capsys):
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
    by_seconds = memo["learning_by_seconds"]
    ends = [metrics[name]["history"][-1]["seconds"] for name in "bcd"]
    assert by_seconds["seconds"][-1] == pytest.approx(min(ends)), "the time that all runs have had"
    assert all(0 < end < metrics[name]["wall_seconds"] for name, end in zip("bcd", ends, strict=True))
    assert len(by_seconds["mean"]) == len(memo["learning_curve"]["mean"])
    quarters = np.mean([metrics[name]["return_by_quarter"] for name in "bcd"], axis=0)
    assert memo["in_context_curve"]["mean"] == pytest.approx(quarters / 10), "reward per step"
    assert lstm["return_per_trial"] == {"mean": metrics["e"]["return_per_trial"], "low": None, "high": None}
    assert "one seed: none" in said
    assert "Few seeds" in said
    assert "measured at: the end of training" in said
    assert "Other settings" not in said
    superseded = "1 older run(s), superseded by a newer run with the same settings and seed (a)"
    assert f"**Left out**: {superseded}; tags.run_dir=a" in said
    assert (store / "comparison/comparison.md").read_text() in said
    assert (store / "comparison/comparison.png").read_bytes().startswith(b"\x89PNG")


def test_only_evaluations_of_one_kind_are_compared(store, monkeypatch, capsys):
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

    evaluated(store, "e", trial_length=320)  # now all runs share one
    groups, said = compare(capsys)
    assert {group["score_of"] for group in groups.values()} == {"held_out tasks, 320 steps"}
    assert groups["memo"]["return_per_trial"]["mean"] == pytest.approx(3.0)
    assert groups["memo"]["in_context_curve"]["mean"] == pytest.approx([3.0 / 320] * 4), "reward per step"

    for name in "bcd":
        evaluated(store, name)
    for name in "bcde":  # a later one must not be preferred
        evaluated(store, name, split="train", memory_budget=8)
    groups, said = compare(capsys)
    assert {group["score_of"] for group in groups.values()} == {"held_out tasks, 40 steps"}, "as long as in training"
    assert groups["lstm"]["return_per_trial"]["mean"] == 5.0
    assert "measured at: held_out tasks, 40 steps" in said


def test_runs_that_differ_in_a_setting_have_rows_of_their_own(store, monkeypatch, capsys):
    monkeypatch.chdir(store)
    other = ["baseline=gru", "logger.experiment_name=other"]
    for seed, rate in ((0, 0.001), (1, 0.002)):
        assert (
            main(["train", *TINY, *other, f"seed={seed}", f"algorithm.learning_rate={rate}", f"run_dir=g{seed}"]) == 0
        )
    groups, said = compare(capsys, "experiment_name=other", "run_dir=other")
    assert {name: (group["seeds"], group["settings"]) for name, group in groups.items()} == {
        "gru (learning_rate=0.001)": ([0], {"algorithm.learning_rate": "0.001"}),
        "gru (learning_rate=0.002)": ([1], {"algorithm.learning_rate": "0.002"}),
    }
    assert "**Other settings, other rows** (gru): algorithm.learning_rate (0.001, 0.002)." in said

    groups, said = compare(capsys, "experiment_name=other", "run_dir=rates", "group_by=algorithm.learning_rate")
    slow, fast = groups["algorithm.learning_rate=0.001"], groups["algorithm.learning_rate=0.002"]
    assert (slow["seeds"], fast["seeds"]) == ([0], [1])
    assert slow["settings"] == {}
    assert "| environment | algorithm.learning_rate |" in said
    assert "Other settings" not in said

    groups, _ = compare(capsys, "experiment_name=other", "run_dir=frames", "group_by=total_frames")
    assert set(groups) == {
        "total_frames=640 (learning_rate=0.001)",
        "total_frames=640 (learning_rate=0.002)",
    }


def test_settings_that_memories_should_share_and_do_not_are_named_with_their_values(store, monkeypatch, capsys):
    monkeypatch.chdir(store)
    (store / "wide_memories.py").write_text("from memo_lightning.models import GRU\n\n\nclass Deep(GRU):\n    pass\n")
    monkeypatch.syspath_prepend(store)
    here = [*TINY, "total_frames=320", "logger.experiment_name=unequal"]
    for name, *changes in (
        ("unequal_memo", "algorithm.learning_rate=0.003", "model.segment_length=5", "model.n_heads=2"),
        ("unequal_lstm", "baseline=lstm", "total_frames=640"),
        ("unequal_full", "baseline=full_context", "model.segment_length=8", "model.n_heads=1"),
    ):
        assert main(["train", *here, *changes, f"run_dir={name}"]) == 0
    _, said = compare(capsys, "experiment_name=unequal", "run_dir=unequal")
    (line,) = [line for line in said.splitlines() if "All else is not equal" in line]
    assert line.startswith("**All else is not equal** (dark_key_to_door): ")
    rate = compose_config("train").algorithm.learning_rate
    parts = {part.partition(" is ")[0]: part.partition(" is ")[2] for part in line.split(": ", 1)[1].split("; ")}
    assert set(parts) == {"algorithm.learning_rate", "frames", "model.n_heads"}, "segments are the memory's own"
    assert set(parts["algorithm.learning_rate"].split(", ")) == {
        "0.003 (memo)",
        f"{rate} (lstm)",
        f"{rate} (full_context)",
    }
    assert set(parts["frames"].split(", ")) == {"320 (memo)", "640 (lstm)", "320 (full_context)"}
    assert "2 (memo)" in parts["model.n_heads"]
    assert "lstm" not in parts["model.n_heads"], "it has none"

    here = [*TINY, "total_frames=320", "logger.experiment_name=deep"]
    own = ["baseline=custom", "baseline.target=wide_memories.Deep", "baseline.settings.n_layers=2"]
    assert main(["train", *here, *own, "run_dir=deep"]) == 0
    assert main(["train", *here, "model.n_layers=1", "run_dir=not_deep"]) == 0
    _, said = compare(capsys, "experiment_name=deep", "run_dir=deep_compared")
    assert "model.n_layers is " in said
    assert "2 (Deep)" in said


def test_memories_that_share_all_settings_are_compared_without_a_remark(store, monkeypatch, capsys):
    monkeypatch.chdir(store)
    assert "not equal" not in compare(capsys)[1]


def test_runs_of_other_lengths_or_resumed_for_longer_do_not_hide_each_other(store, monkeypatch, capsys):
    """A short trial run made last must not replace the long run with the same seed."""
    monkeypatch.chdir(store)
    here = ["logger.experiment_name=lengths", "baseline=memoryless"]
    assert main(["train", *TINY, *here, "run_dir=long"]) == 0
    assert main(["train", "resume=long", "total_frames=960"]) == 0
    assert main(["train", *TINY, *here, "total_frames=320", "run_dir=short"]) == 0
    groups, _ = compare(capsys, "experiment_name=lengths", "run_dir=lengths")
    assert {name: group["frames"] for name, group in groups.items()} == {
        "memoryless (frames=960)": [960],
        "memoryless (frames=320)": [320],
    }


def test_memories_of_ones_own_are_told_apart_by_class_and_settings(store, monkeypatch, capsys):
    monkeypatch.chdir(store)
    (store / "own_memories.py").write_text(
        "from memo_lightning.models import GRU\n\n\nclass One(GRU):\n    pass\n\n\nclass Two(GRU):\n    pass\n"
    )
    monkeypatch.syspath_prepend(store)
    own = [*TINY, "total_frames=320", "baseline=custom", "logger.experiment_name=own"]
    for target, n_layers in (("One", 1), ("Two", 1), ("Two", 2)):
        name = [f"baseline.target=own_memories.{target}", f"baseline.settings.n_layers={n_layers}"]
        assert main(["train", *own, *name, f"run_dir={target}{n_layers}"]) == 0
    groups, _ = compare(capsys, "experiment_name=own", "run_dir=own")
    assert set(groups) == {"One", "Two (n_layers=1)", "Two (n_layers=2)"}
    for run in MlflowClient(f"sqlite:///{store}/mlflow.db").search_runs(
        [MlflowClient(f"sqlite:///{store}/mlflow.db").get_experiment_by_name("own").experiment_id]
    ):  # as earlier versions tagged them
        MlflowClient(f"sqlite:///{store}/mlflow.db").set_tag(run.info.run_id, "memory", "custom")
    groups, _ = compare(capsys, "experiment_name=own", "run_dir=own")
    assert set(groups) == {"One", "Two (n_layers=1)", "Two (n_layers=2)"}


def test_runs_that_cannot_be_compared_are_named(store, monkeypatch, capsys):
    monkeypatch.chdir(store)
    here = [*TINY, "logger.experiment_name=unfit"]
    assert main(["train", *here, "run_dir=fit"]) == 0
    assert main(["train", *here, "run_dir=no_trial", "collector.rollout_length=20", "total_frames=160"]) == 0
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("unfit").experiment_id
    tags = {"memory": "memo", "environment": "dark_key_to_door", "seed": "5"}
    client.create_run(experiment, tags=tags, run_name="stopped")
    client.create_run(experiment, tags={**tags, "study": "s", "kind": "seed"})
    client.set_terminated(client.create_run(experiment, tags=tags, run_name="empty").info.run_id)
    groups, said = compare(capsys, "experiment_name=unfit", "run_dir=unfit")
    assert set(groups) == {"memo"}
    for line in (
        "1 run not finished (stopped: RUNNING); to resume one: memo train resume=RUN_DIR",
        "1 run of a study (shown with study=s)",
        "1 run in which no trial completed (no_trial)",
        "1 run without metrics.json: their files are no longer in MLflow, or training ended early (empty)",
    ):
        assert f"**Left out**: {line}." in said


@pytest.mark.parametrize("value", ["it's", 'a "b"', 'it\'s "both"', "a,b / ü", "2024", "0.5"])
def test_tags_are_compared_as_they_are_whatever_they_hold(store, monkeypatch, capsys, value):
    monkeypatch.chdir(store)
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    client.set_tag(metrics_of(store)["e"]["mlflow_run_id"], "note", value)
    quoted = "'" + value.replace("'", "\\'") + "'"
    groups, _ = compare(capsys, f"+tags.note={quoted}", "run_dir=tagged")
    assert set(groups) == {"lstm"}
    assert main(["compare", "+tags.note=other's"]) == 2


def test_names_may_look_like_numbers(store, monkeypatch, capsys):
    monkeypatch.chdir(store)
    (store / "experiment").mkdir()
    (store / "experiment/mine.yaml").write_text(
        "# @package _global_\nlogger: {experiment_name: 2024, run_name: 7, tags: {note: 3}}\n"
    )
    given = ["logger.experiment_name=2024", "logger.run_name=7", "logger.tags.note=3"]
    assert main(["train", *TINY, *given, "baseline=lstm", "run_dir=1"]) == 0
    assert main(["train", "experiment=experiment/mine.yaml", *TINY, "seed=1", "baseline=lstm", "run_dir=2"]) == 0
    assert main(["register", "run_dir=1", "name=8"]) == 0
    groups, _ = compare(capsys, "experiment_name=2024", "tags.note=3", "group_by=note", "run_dir=numbers")
    assert {name: group["seeds"] for name, group in groups.items()} == {"3": [0, 1]}
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("2024").experiment_id])
    assert {run.info.run_name for run in runs} == {"7"}
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "2024")
    assert set(compare(capsys, "tags.memory=lstm", "run_dir=numbers")[0]) == {"lstm"}


def test_what_cannot_be_compared_is_one_line(store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(store)
    for override, message in {
        "experiment_name=memo-lightening": "did you mean memo-lightning",
        "study=none": "no finished run with study=none in experiment memo-lightning",
        "group_by=trial": "has no such tag or setting; its tags are ",
        "+tags.memory=gru": "no finished run with memory=gru",
        "group_by=model.colour": "has no such tag or setting; its tags are ",
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
    """In 200 samples of 20 seeds, about 95 % of the intervals contain the true centre, 0 by symmetry."""
    rng = np.random.default_rng(0)
    estimate = estimate_over_seeds(rng.normal(size=(20, 200)))
    assert ((estimate.low < 0) & (estimate.high > 0)).mean() == pytest.approx(0.93, abs=0.05)
