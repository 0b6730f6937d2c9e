"""The parts of a training fit together or give a helpful one-line error; `memo check-env` builds the same parts."""

import json
import re

import pytest

from memo_lightning.cli.main import main
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.training.parts import build_parts

SHORT = ["env=darkroom", "env.episode_length=3", "collector.n_envs=8", "logger=none"]


def lengths(*overrides):
    model = compose_config("train", overrides).model
    return model.segment_length, model.summary_length


def test_segments_and_summaries_follow_short_trials_and_only_these():
    assert lengths() == (50, 2)
    assert lengths("env.trial_length=11") == (11, 2)
    assert lengths("collector.rollout_length=12") == (12, 2)
    assert lengths("env.trial_length=1") == (1, 1)
    assert lengths("env.trial_length=11", "model.segment_length=5") == (5, 2)
    assert lengths("debug=smoke", "env.trial_length=11") == (11, 2)


@pytest.mark.parametrize("baseline", ["none", "full_context", "rmt"])
def test_the_memory_that_is_built_has_them(baseline):
    parts = build_parts(compose_config("train", [*SHORT, "env.trial_length=11", f"baseline={baseline}"]))
    assert parts.model.segment_length in (11, None)
    assert parts.spec.memory.get("segment_length") == parts.model.segment_length
    assert parts.remarks == ["model.segment_length=11: the default, limited by collector.rollout_length"]
    assert not build_parts(compose_config("train", [*SHORT, "env.trial_length=60"])).remarks


def test_more_minibatches_than_environments_are_refused_before_environments_are_built(monkeypatch):
    monkeypatch.setattr("memo_lightning.training.parts.build_env", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(UserError, match=r"n_minibatches=8: must be at most collector\.n_envs=4"):
        build_parts(compose_config("train", ["env=ext_objnav", "collector.n_envs=4"]))


@pytest.mark.parametrize("collector", ["multi_sync", "multi_async", "ray"])
def test_workers_of_environments_within_workers_of_collectors_are_refused(collector):
    config = compose_config("train", ["env=gymnasium", "env.id=CartPole-v1", f"collector={collector}", "env.workers=2"])
    with pytest.raises(UserError, match=rf"^env\.workers=2: must be 0 with collector={collector}, whose workers"):
        build_parts(config)


def test_a_length_that_does_not_fit_is_refused_with_what_to_set():
    given = [*SHORT, "env.trial_length=11", "model.segment_length=40"]
    with pytest.raises(UserError) as error:
        build_parts(compose_config("train", given))
    message = "model.segment_length=40: must be at most 11, the steps of a rollout; set model.segment_length=11"
    assert str(error.value) == message
    remedy = str(error.value).partition("; set ")[2]
    assert build_parts(compose_config("train", [*given, remedy])).model.segment_length == 11
    with pytest.raises(UserError, match=r"^baseline.top_k=16: must be at most 4"):
        build_parts(compose_config("train", [*SHORT, "env.trial_length=20", "baseline=retrieval", "baseline.top_k=16",
                                             "model.segment_length=10"]))  # fmt: skip


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.segment_length=40", "model.segment_length=40: must be at most 11"),
        ("algorithm.n_minibatches=16", "algorithm.n_minibatches=16: must be at most"),
        ("baseline=custom", "baseline.target=null: must be"),
        ("encoder.in_keys=[nothing]", "the environment has no 'nothing'"),
    ],
)
def test_check_env_finds_what_training_would_refuse(override, message, capsys):
    given = [*SHORT, "env.trial_length=11", override]
    with pytest.raises(UserError, match=re.escape(message)):
        build_parts(compose_config("train", given))
    assert main(["check-env", *given]) == 2
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG")]
    assert line.startswith("WRONG  training")
    assert message in line


def test_short_trials_train_and_it_says_how(in_tmp_dir, capsys):
    given = [*SHORT, "env.trial_length=6", "total_frames=96", "run_dir=run"]
    assert main(["train", *given]) == 0
    assert "model.segment_length=6: the default, limited by collector.rollout_length" in capsys.readouterr().err
    assert json.loads((in_tmp_dir / "run" / "metrics.json").read_text())["trial_length"] == 6
    assert main(["train", "resume=run", "total_frames=192"]) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["compile=true", "baseline=lstm"], "compile=True: must be false with LSTM, which has no MLPs to compile"),
        (["compile=true"], None),
        (["env=gymnasium", "env.id=CartPole-v1", "env.normalize_observations=true"], None),
        (
            ["env=custom", "env.target=gymnasium.envs.toy_text:TaxiEnv", "env.normalize_observations=true"],
            "env.normalize_observations=True: must be false, as the environment has no observation vectors; images",
        ),
    ],
)
def test_settings_without_any_effect_are_refused(given, message):
    config = compose_config("train", ["collector.n_envs=8", "logger=none", "env.trial_length=60", *given])
    if message is None:
        build_parts(config)
        return
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        build_parts(config)


def test_a_replay_without_room_for_a_whole_trial_is_refused():
    given = [*SHORT, "env.trial_length=60", "algorithm=actor_critic", "logger=none", "algorithm.replay.trial_length=59"]
    message = (
        "algorithm.replay.trial_length=59: must be at least 60, the smaller of env.trial_length and collector.roll"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        build_parts(compose_config("train", given))
    for shorter in ("env.trial_length=59", "collector.rollout_length=59"):
        assert build_parts(compose_config("train", [*given, shorter])).algorithm.replay.trial_length == 59


def test_settings_with_which_little_is_learned_are_remarked_on():
    given = [*SHORT, "env.trial_length=60", "algorithm=actor_critic", "algorithm.learning_starts=640"]
    assert not build_parts(compose_config("train", [*given, "total_frames=1280"])).remarks
    remarks = build_parts(compose_config("train", [*given, "total_frames=640", "collector.rollout_length=50"])).remarks
    assert remarks[-2:] == [
        "algorithm.learning_starts=640: not before total_frames=640, so nothing is learned",
        "collector.rollout_length=50: below env.trial_length=60, so no whole trial is learned from",
    ]
