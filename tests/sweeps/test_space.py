"""The search space: what is drawn, and what is rejected."""

import re

import optuna
import pytest

from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.sweeps.space import as_overrides, check_space, draw, parse_space


def test_values_are_drawn_within_bounds_and_under_their_conditions():
    space = parse_space(
        {
            "algorithm.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
            "model.segment_length": {"type": "int", "low": 10, "high": 40, "step": 10},
            "baseline": {"type": "categorical", "choices": ["none", "rmt", "lstm"]},
            "baseline.equal_memory_at": {"type": "categorical", "choices": [None, 200], "when": {"baseline": "rmt"}},
        }
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [draw(space, study.ask()) for _ in range(100)]
    assert all(1e-4 <= values["algorithm.learning_rate"] <= 1e-2 for values in drawn)
    assert {values["model.segment_length"] for values in drawn} == {10, 20, 30, 40}
    assert sum(values["algorithm.learning_rate"] < 1e-3 for values in drawn) == pytest.approx(50, abs=15), "log"
    for values in drawn:
        assert ("baseline.equal_memory_at" in values) == (values["baseline"] == "rmt")
    assert {values["baseline.equal_memory_at"] for values in drawn if values["baseline"] == "rmt"} == {None, 200}


def test_drawn_values_arrive_in_the_configuration():
    values = {"baseline": "rmt", "baseline.equal_memory_at": None, "env.lit": True, "algorithm.learning_rate": 3.2e-05}
    config = compose_config("train", as_overrides(values))
    assert config.baseline.equal_memory_at is None
    assert config.env.lit is True
    assert config.algorithm.learning_rate == 3.2e-05
    assert config.choices.baseline == "rmt"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space={}: must be a mapping of at least one setting"),
        ({"algorithm.gamma": {"type": "uniform"}}, "type='uniform': must be one of float, int, categorical"),
        ({"algorithm.gamma": 3}, "type=3: must be one of float, int, categorical"),
        ({"algorithm.gamma": {"type": "float", "low": 1, "high": 0}}, "space.algorithm.gamma: "),
        ({"algorithm.gamma": {"type": "float", "low": 1}}, "missing a required argument: 'high'"),
        ({"algorithm.gamma": {"type": "float", "low": 0, "high": 1, "log": True}}, "space.algorithm.gamma: "),
        ({"baseline": {"type": "categorical", "choices": []}}, "space.baseline: "),
        ({"env": {"type": "categorical", "choices": [{"lit": True}]}}, "space.env.choices: {'lit': True} is a mapping"),
        ({"algorithm.gama": {"type": "float", "low": 0, "high": 1}}, "did you mean algorithm.gamma"),
        ({"baseline": {"type": "categorical", "choices": ["none", "lsmt"]}}, "did you mean lstm"),
        ({"algorithm.n_epochs": {"type": "float", "low": 1.5, "high": 2.5}}, "must be an integer"),
        ({"algorithm.n_epochs": {"type": "int", "low": 1.5, "high": 3}}, "n_epochs.low=1.5: must be an integer"),
        (
            {"algorithm.clip_epsilon": {"type": "float", "low": -1, "high": 0.1}},
            "space.algorithm.clip_epsilon=-1.0: algorithm.clip_epsilon=-1.0: must be greater than 0",
        ),
        ({"model.summary_length": {"type": "int", "low": 1, "high": 99}}, "space.model.summary_length=99: "),
        (
            {"model.segment_length": {"type": "int", "low": 8, "high": 999}},
            "model.segment_length=999: must be at most 200, the steps of a rollout",
        ),
        (
            {
                "baseline": {"type": "categorical", "choices": ["retrieval"]},
                "baseline.top_k": {"type": "int", "low": 1, "high": 99, "when": {"baseline": "retrieval"}},
            },
            "baseline.top_k=99: must be at most 8, the summary tokens of 200 steps",
        ),
        (
            {"collector.n_envs": {"type": "int", "low": 1, "high": 8}},
            "algorithm.n_minibatches=8: must be at most collector.n_envs=1",
        ),
        ({"total_frames": {"type": "int", "low": 1, "high": 9}}, "space.total_frames: is also set"),
        (
            {"baseline.equal_memory_at": {"type": "int", "low": 1, "high": 9, "when": {"baseline": "rmt"}}},
            "when.baseline: must be a setting listed before this one",
        ),
        (
            {
                "baseline": {"type": "categorical", "choices": ["lstm", "rmt"]},
                "baseline.equal_memory_at": {"type": "int", "low": 1, "high": 9, "when": {"baseline": "lstm"}},
            },
            "space.baseline.equal_memory_at=1: LSTM: got an unexpected keyword argument 'equal_memory_at'",
        ),
    ],
)
def test_a_wrong_space_is_one_line_that_names_the_setting(space, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        check_space(parse_space(space), ["total_frames=5"])
    assert "\n" not in str(error.value)


def test_a_value_that_fits_some_others_is_right():
    """Segments of two steps do not allow a summary of four tokens but allow one of a single token."""
    space = {
        "model.segment_length": {"type": "categorical", "choices": [2, 40]},
        "model.summary_length": {"type": "int", "low": 1, "high": 4},
    }
    check_space(parse_space(space), [])


def test_lists_are_choices_that_optuna_can_keep_and_memo_train_can_read():
    choices = [["observation"], ["observation", "previous_step"]]
    space = parse_space(
        {
            "encoder.in_keys": {"type": "categorical", "choices": choices},
            "algorithm.gamma": {"type": "float", "low": 0.9, "high": 0.99, "when": {"encoder.in_keys": [choices[1]]}},
        }
    )
    check_space(space, [])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(20)]
    drawn = [draw(space, trial) for trial in trials]
    read = [list(compose_config("train", as_overrides(values)).encoder.in_keys) for values in drawn]
    assert {tuple(keys) for keys in read} == {tuple(keys) for keys in choices}
    assert [len(keys) == 2 for keys in read] == ["algorithm.gamma" in values for values in drawn]
    assert [as_overrides(trial.params) for trial in trials] == [as_overrides(values) for values in drawn]


@pytest.mark.parametrize("word", ["it's", "a,b", "a b", 'say "x"', "x=y", "é", "(x)", "back\\", "a/b:c", "[a,b"])
def test_words_arrive_as_they_are_whatever_they_hold(word):
    config = compose_config("train", as_overrides({"encoder.in_keys": [word, ""], "run_dir": word}))
    assert config.run_dir == word
    assert list(config.encoder.in_keys) == [word, ""]
