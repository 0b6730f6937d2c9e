"""Custom environments: Gymnasium or TorchRL, single or batched, and what `memo check-env` reports about them."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torchrl.envs import check_env_specs

from memo_lightning.cli.main import main
from memo_lightning.config import compose_config
from memo_lightning.envs.build import build_env
from memo_lightning.errors import EnvironmentFailure, UserError

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "own-environment.md"


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


def build(target, *overrides, n_envs=3):
    config = compose_config("train", ["env=custom", f"env.target={target}", *overrides])
    return build_env(config.env, n_envs, 0)


def test_a_gymnasium_environment_gets_trials_and_settings():
    env = build("own_envs:Guess", "env.settings.steps=2", "env.episodes_per_trial=3", "env.success_return=1")
    rollout = env.rollout(12, break_when_any_done=False)
    assert rollout["next", "done"][0].flatten().nonzero().flatten().tolist() == [5, 11]
    assert rollout["next", "episode_end"][0].flatten().tolist() == [False, True] * 6
    assert torch.equal(rollout["next", "success"].float(), rollout["next", "reward"])


def test_every_setting_of_gymnasium_environments_is_one_of_custom_ones():
    settings = {name: set(compose_config("train", [f"env={name}"]).env) for name in ("gymnasium", "custom")}
    assert settings["gymnasium"] - settings["custom"] == {"id"}, "env.target makes the environment instead"
    with pytest.raises(UserError, match=r"unknown override 'env.id': exists only with env=gymnasium"):
        build("own_envs:Guess", "env.id=CartPole-v1")
    with pytest.raises(UserError, match=r"env.id=CartPole-v1: env.target makes the environment here; .*env=gymnasium"):
        build_env({**compose_config("train", ["env=custom"]).env, "id": "CartPole-v1"}, 1, 0)


def test_wrappers_are_applied_and_take_arguments():
    names = "gymnasium.wrappers.FlattenObservation,{_target_: own_envs.Scale, factor: 10}"
    env, plain = build("own_envs:Guess", f"env.wrappers=[{names}]"), build("own_envs:Guess")
    scaled, rollout = env.rollout(3), plain.rollout(3)
    assert torch.equal(scaled["observation", "observation"], 10 * rollout["observation", "observation"])


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("nowhere.Wrapper", "env.wrappers=nowhere.Wrapper: cannot be imported"),
        ("{_target_: nowhere.Wrapper}", "nowhere"),
        (
            "own_envs.Scale",
            r"env.wrappers: Scale: .*'factor'; pass arguments as 'env.wrappers=\[{_target_: own_envs.S",
        ),
        ("{_target_: own_envs.Scale, factor: 2, colour: red}", "env.wrappers: Scale: .*colour"),
        ("own_envs.make_number", "env.wrappers: make_number"),
        ("own_envs.__name__", "env.wrappers='own_envs.__name__': must be functions or classes"),
        (
            "{_target_: gymnasium.wrappers.RescaleAction, min_action: -1, max_action: 1}",
            "env.wrappers: gymnasium.*RescaleAction: .*Box action space",
        ),
    ],
)
def test_wrappers_that_cannot_be_used_are_one_line(wrapper, message):
    with pytest.raises(UserError, match=message) as error:
        build("own_envs:Guess", f"env.wrappers=[{wrapper}]")
    assert "\n" not in str(error.value)


def test_episodes_are_cut_off_after_the_episode_length():
    env = build("own_envs:Guess", "env.settings.steps=9", "env.episode_length=3", "env.trial_length=12")
    assert env.rollout(12)["next", "episode_end"][0].flatten().nonzero().flatten().tolist() == [2, 5, 8, 11]
    with pytest.raises(
        UserError, match=r"env.episode_length=600: must be at most 500, the environment's own time limit"
    ):
        build("own_envs:make_cart_pole", "env.episode_length=600")


def test_the_advice_for_actions_without_bounds_can_be_pasted():
    with pytest.raises(UserError, match="must have finite bounds") as error:
        build("own_envs:WithoutBounds")
    (advice,) = re.findall(r"'(env.wrappers=.*)'", str(error.value))
    env = build("own_envs:WithoutBounds", advice)
    assert env.action_spec.space.low.min() == -1
    assert env.rollout(3)["action"].abs().max() <= 1
    with pytest.raises(UserError, match=r"high=-1: must be above low=1"):
        build("own_envs:WithoutBounds", advice.replace("low: -1, high: 1", "low: 1, high: -1"))


@pytest.mark.parametrize("target", ["own_envs:Seeded", "own_envs:make_single_seeded"])
def test_a_torchrl_environment_gets_other_seeds_for_held_out_tasks_than_in_training(target):
    seen = {}
    for split in ("train", "held_out", "all"):
        env = build(target, f"env.split={split}", n_envs=2)
        seen[split] = set()
        for seed in range(8):
            env.set_seed(seed)
            seen[split] |= set(env.reset()["observation", "t"].flatten().tolist())
    assert seen == {"train": {0.0}, "held_out": {1.0}, "all": {0.0, 1.0}}
    with pytest.raises(UserError, match=r"env.split='test': must be one of train, held_out, all"):
        build(target, "env.split=test")


@pytest.mark.parametrize("target", ["own_envs:Draws", "own_envs:make_transformed_draws"])
def test_every_torchrl_environment_has_its_own_stream_with_and_without_transforms(target):
    """They draw from torch's global numbers, which TorchRL seeds."""
    drawn = {}
    for split, seed in (("train", 0), ("train", 1), ("held_out", 0)):
        env = build(target, f"env.split={split}")
        env.set_seed(seed)
        drawn[split, seed] = env.reset()["observation", "x"].flatten().tolist()
        env.set_seed(seed)
        assert env.reset()["observation", "x"].flatten().tolist() == drawn[split, seed]
    assert len({x for numbers in drawn.values() for x in numbers}) == 9


def test_a_target_that_takes_the_split_is_given_it_and_the_users_own_takes_precedence():
    assert build("own_envs:Seeded").split == "train"
    assert build("own_envs:Seeded", "env.split=held_out").split == "held_out"
    assert build("own_envs:Seeded", "env.settings.split=mine").split == "mine"


@pytest.mark.parametrize(
    ("target", "key"), [("own_envs:Batched", "position"), ("own_envs:make_single_torchrl", "observation")]
)
def test_episodes_of_a_torchrl_environment_are_trials(target, key):
    env = build(target, "env.trial_length=9")
    check_env_specs(env)
    env.set_seed(0)
    torch.manual_seed(0)
    rollout = env.rollout(40, break_when_any_done=False)
    assert set(rollout["observation"].keys()) == {key}
    for trajectory in rollout:
        steps, total = 0, 0.0
        for t in range(40):
            after = trajectory["next"][t]
            steps, total = steps + 1, total + after["reward"].item()
            assert after["episode_length"] == steps <= 9
            assert after["episode_return"].item() == pytest.approx(total, abs=1e-5)
            assert after["episode_end"] == after["done"]
            assert trajectory["is_init"][t] == (steps == 1)
            if after["done"]:
                steps, total = 0, 0.0
        assert trajectory["next", "done"].sum() >= 4


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("null", "env.target=null: must be the path"),
        ("nowhere:make", "env.target=nowhere:make: cannot be imported"),
        ("own_envs:make_number", "made a int; must make a gymnasium.Env or a TorchRL EnvBase"),
        ("own_envs:__name__", "must be a function or class"),
        ("own_envs:make_serial", "made a SerialEnv; must make one environment without batch size"),
        ("own_envs:make_parallel", "made a ParallelEnv; must make one environment without batch size"),
    ],
)
def test_targets_that_make_no_environment_are_refused(target, message):
    with pytest.raises(UserError, match=message):
        build(target)


def test_one_hot_actions_are_refused_with_what_to_do():
    with pytest.raises(UserError, match=r"action_spec=OneHot: must be Categorical .*categorical_action_encoding=True"):
        build("own_envs:make_single_torchrl", "env.settings.one_hot=true")


def test_settings_that_the_environment_does_not_take_are_named():
    with pytest.raises(UserError, match=r"unknown override 'env.worker': did you mean env.workers"):
        build("own_envs:Guess", "env.worker=2")
    for setting in ("workers=2", "wrappers=[a.b]", "ignore=[x]", "episode_length=3", "same_task=seed"):
        with pytest.raises(UserError, match=rf"env.{setting.partition('=')[0]}=.*: only for Gymnasium environments"):
            build("own_envs:Batched", f"env.{setting}")


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("own_envs:Guess", 0, r"ok +speed +[\d,]+ steps/s"),
        ("own_envs:Batched", 0, r"ok +trials +\d+ trials"),
        ("own_envs:Unseeded", 2, r"WRONG +seeds +the same seed gave a different .*self.np_random"),
        (
            "own_envs:Escapes",
            2,
            r"WRONG +values +observation\[1\] is 10 after step 3 in environment 0; must be .* from 0 to 5:",
        ),
        (
            "own_envs:ForgetsOthers",
            2,
            r"WRONG +partial reset +resetting some environments changed 'position' of others",
        ),
    ],
)
def test_check_env_says_in_words_what_is_wrong(target, status, message, capsys):
    arguments = ["env=custom", f"env.target={target}", "env.trial_length=8", "collector.n_envs=8"]
    assert main(["check-env", *arguments]) == status
    output = capsys.readouterr()
    assert re.search(message, output.out), output.out
    assert ("is not ready for training" in output.err) == (status != 0)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("shape", UserError, r"a step returned 'position' of shape \(3, 3\); its spec says \(3, 2\)"),
        ("dtype", UserError, r"a step returned 'position' of dtype torch.float64; its spec says torch.float32"),
        ("key", UserError, r"a step returned no 'position', which its spec declares"),
        ("raise", EnvironmentFailure, r"RuntimeError: the motor is on fire\n(.*\n)*.*own_envs.py.*in _step"),
        (
            "hang",
            EnvironmentFailure,
            r"hangs: no answer within 0.5 s \(env.step_timeout\)\n(.*\n)*.*own_envs.py.*in _step",
        ),
    ],
)
def test_a_torchrl_environment_that_goes_wrong_is_named(fault, error, message):
    env = build("own_envs:Misshapen", f"env.settings.fault={fault}", "env.step_timeout=0.5")
    with pytest.raises(error, match=f"env.target=own_envs:Misshapen:? {message}"):
        env.rollout(5, break_when_any_done=False)


def test_so_is_one_that_comes_with_transforms():
    env = build("own_envs:make_transformed", "env.settings.fault=raise")
    with pytest.raises(EnvironmentFailure, match=r"own_envs:make_transformed: RuntimeError: the motor"):
        env.rollout(5, break_when_any_done=False)


def test_check_env_finds_a_step_that_breaks_its_spec(capsys):
    arguments = ["env=custom", "env.target=own_envs:Misshapen", "env.settings.fault=shape"]
    assert main(["check-env", *arguments]) == 2
    assert re.search(r"WRONG +steps .*'position' of shape \(4, 3\)", capsys.readouterr().out)


def test_check_env_says_what_images_were_taken_for(capsys):
    arguments = ["check-env", "env=custom", "env.target=own_envs:Board", "env.trial_length=4", "collector.n_envs=8"]
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "set env.images.observation=channels_last, or to channels_first or vector" in error
    assert main([*arguments, "env.images.observation=channels_first"]) == 0
    assert "image 7 x 6, 4 channels (channels_first)" in capsys.readouterr().out


def test_what_the_target_raises_is_shown_with_its_own_trace_and_not_ours():
    with pytest.raises(EnvironmentFailure, match=r"own_envs:make_and_raise: ValueError: no such level") as error:
        build("own_envs:make_and_raise")
    assert "in make_and_raise" in str(error.value)
    assert "custom.py" not in str(error.value)
    with pytest.raises(UserError, match=r"env.target=own_envs:Guess: got an unexpected keyword argument 'colour'"):
        build("own_envs:Guess", "env.settings.colour=red")


def test_check_env_takes_the_environments_of_the_project(capsys):
    assert main(["check-env", "env=darkroom", "collector.n_envs=16"]) == 0
    assert "next: memo train env=darkroom" in capsys.readouterr().out
    assert main(["check-env", "--help"]) == 0
    assert "usage: memo check-env" in capsys.readouterr().out


def test_the_template_of_the_how_to_trains(tmp_path, monkeypatch, capsys):
    (template,) = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    (tmp_path / "my_task.py").write_text(template)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    commands = re.findall(r"^memo (.*my_task.*)$", HOW_TO.read_text(), re.MULTILINE)
    assert len(commands) == 2
    tiny = [
        "debug=smoke",
        "logger=none",
        "total_frames=400",
        "run_dir=run",
    ]
    for command in commands:
        assert main([*command.split(), *tiny, "logger=none", "run_dir=run"]) == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["env"] == "my_task:make_env"
    del sys.modules["my_task"]


def test_an_environment_with_its_own_trials_is_told_how_long_they_are():
    env = build("own_envs:rooms", "env.trial_length=15")
    rollout = env.rollout(30, break_when_any_done=False)
    assert rollout["next", "done"][0].flatten().nonzero().flatten().tolist() == [14, 29]
    assert rollout["next", "episode_end"][0].sum() >= 6


@pytest.mark.parametrize(
    ("target", "override", "message"),
    [
        (
            "rooms_of_fixed_trials",
            "env.trial_length=15",
            "env.target=own_envs:rooms_of_fixed_trials: reports episode_end, so it must take the argument trial_length",
        ),
        ("Counts", "env.episode_length=7", "env.episode_length=7: must be null, as"),
        ("Counts", "env.episodes_per_trial=2", "env.episodes_per_trial=2: must be 1 or null, as"),
        ("Counts", "env.same_task=seed", "env.same_task='seed': must be none, as"),
        (
            "rooms",
            "env.time_limit_is_end=true",
            "env.time_limit_is_end=True: must be false, as env.target=own_envs:rooms",
        ),
    ],
)
def test_a_setting_that_an_environment_with_its_own_trials_would_ignore_is_refused(target, override, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(f"own_envs:{target}", override)
