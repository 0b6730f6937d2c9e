"""Truncated episodes are distinguished from terminated ones, wherever in a trial they end."""

from functools import partial
from pathlib import Path

import pytest
import torch
from gymnasium.wrappers import TimeLimit
from torchrl.envs import check_env_specs
from toys import Clock, OwnLimits

from memo_lightning.config import compose_config
from memo_lightning.envs.build import build_env
from memo_lightning.envs.gymnasium import GymnasiumEnv
from memo_lightning.errors import UserError

FLAGS = ("episode_end", "episode_truncated", "done", "terminated", "truncated")


def clock(end=None, limit=None):
    """Return an environment with episodes of at most ``limit`` steps."""
    env = Clock(end)
    return env if limit is None else TimeLimit(env, limit)


def flags_of(steps):
    """Return the steps [T] after which each flag is set, counted from 1."""
    after = steps["next"]
    return {name: (after[name].flatten().nonzero().flatten() + 1).tolist() for name in FLAGS if name in after.keys()}


def check_all_alike(env, n_steps):
    """Check that all environments behave alike, and return the steps [T] of the first."""
    steps = env.rollout(n_steps, break_when_any_done=False)
    after = steps["next"].exclude("previous_step")  # which shows random actions
    assert all((after[0] == other).all() for other in after)
    return steps[0]


def at(*steps, **flags):
    return {name: list(steps) for name in FLAGS} | flags


# Limits of episodes and trials; the steps (of nine) after which each flag is set; last observations if truncated.
CASES = {
    "at a limit within a trial, and at trial_length in the middle of an episode": (
        {"limit": 3, "trial_length": 7},
        {"episode_end": [3, 6], "episode_truncated": [3, 6, 7], "done": [7], "terminated": [], "truncated": [7]},
        {3: 3, 6: 3},
    ),
    "at a limit that is the end of the trial": (
        {"limit": 3, "trial_length": 6},
        {"episode_end": [3, 6, 9], "episode_truncated": [3, 6, 9], "done": [6], "terminated": [], "truncated": [6]},
        {3: 3, 9: 3},
    ),
    "at the limit of the trial's last episode": (
        {"limit": 3, "trial_length": 100, "episodes_per_trial": 2},
        {"episode_end": [3, 6, 9], "episode_truncated": [3, 6, 9], "done": [6], "terminated": [], "truncated": [6]},
        {3: 3, 9: 3},
    ),
    "at the limit of the trial's only episode": (
        {"limit": 3, "trial_length": 100, "episodes_per_trial": 1},
        at(3, 6, 9, terminated=[]),
        None,
    ),
    "at trial_length, where the environment has no limit": (
        {"trial_length": 4},
        at(4, 8, terminated=[], episode_end=[]),
        {},
    ),
    "never, where the environment ends in the step of its limit": (
        {"end": 3, "limit": 3, "trial_length": 6},
        {"episode_end": [3, 6, 9], "episode_truncated": [], "done": [6], "terminated": [6], "truncated": []},
        {},
    ),
    "never, where the environment ends in the step that ends the trial": (
        {"end": 3, "trial_length": 3},
        at(3, 6, 9, episode_truncated=[], truncated=[]),
        {},
    ),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("case", CASES)
def test_an_episode_is_cut_off(case, workers):
    settings, flags, final = CASES[case]
    rules = {name: value for name, value in settings.items() if name not in ("end", "limit")}
    make = partial(clock, settings.get("end"), settings.get("limit"))
    env = GymnasiumEnv(n_envs=2, make=make, workers=workers, **rules)
    check_env_specs(env)
    steps = check_all_alike(env, 9)
    assert flags_of(steps) == flags
    assert ("final_observation" in env.observation_spec.keys()) == (final is not None)
    if final is not None:
        expected = torch.zeros(9, 1)
        for step, seen in final.items():
            expected[step - 1] = seen
        assert torch.equal(steps["next", "final_observation", "observation"], expected)
    seen, t, ends = [], 0, set(flags["episode_end"])
    for step in range(1, 10):
        t += 1
        next_begins = step in ends and step not in flags["done"]  # the next episode begins in the same step
        seen.append(0.0 if next_begins else t)
        t = 0 if step in ends or step in flags["done"] else t
    assert steps["next", "observation", "observation"].flatten().tolist() == seen
    env.close()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_where_the_time_limit_is_an_end_nothing_is_cut_off(case, workers):
    settings, flags, _ = CASES[case]
    rules = {name: value for name, value in settings.items() if name not in ("end", "limit")}
    make = partial(clock, settings.get("end"), settings.get("limit"))
    env = GymnasiumEnv(n_envs=2, make=make, workers=workers, time_limit_is_end=True, **rules)
    check_env_specs(env)
    assert set(env.full_done_spec.keys()) == {"done", "terminated"}
    assert not {"episode_truncated", "final_observation"} & set(env.observation_spec.keys())
    steps = check_all_alike(env, 9)
    assert flags_of(steps) == {
        "episode_end": flags["episode_end"],
        "done": flags["done"],
        "terminated": flags["done"],
    }
    env.close()


def test_a_reset_says_nothing_of_the_episode_that_was_cut_off_before():
    env = GymnasiumEnv(n_envs=1, make=partial(clock, limit=3), trial_length=7)
    env.rollout(7)
    td = env.reset()
    assert not any(td[name].any() for name in FLAGS)
    assert not td["final_observation", "observation"].any()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_that_makes_trials_itself_tells_the_observation_that_ended_an_episode(workers):
    env = GymnasiumEnv(n_envs=2, make=partial(OwnLimits, tells_final=True), trial_length=100, workers=workers)
    check_env_specs(env)
    steps = check_all_alike(env, 9)
    assert flags_of(steps) == {
        "episode_end": [3, 6],
        "episode_truncated": [3, 6, 7],
        "done": [7],
        "terminated": [],
        "truncated": [7],
    }
    assert steps["next", "final_observation", "observation"].flatten().tolist() == [0, 0, 3, 0, 0, 3, 0, 0, 0]
    assert steps["next", "observation", "observation"].flatten().tolist() == [1, 2, 0, 1, 2, 0, 1, 1, 2]
    env.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_one_that_does_not_tell_is_one_clear_line(workers):
    env = GymnasiumEnv(n_envs=2, make=partial(OwnLimits, tells_final=False), trial_length=100, workers=workers)
    message = (
        r"^environment 0 \(<OwnLimits instance>\): info has episode_truncated but no final_obs \(the last "
        r"observation of the episode\); must have both$"
    )
    with pytest.raises(UserError, match=message):
        env.rollout(9)
    env.close()


def test_it_need_not_tell_where_the_time_limit_is_an_end():
    env = GymnasiumEnv(n_envs=1, make=partial(OwnLimits, tells_final=False), trial_length=100, time_limit_is_end=True)
    steps = check_all_alike(env, 9)
    assert flags_of(steps) == {"episode_end": [3, 6], "done": [7], "terminated": [7]}


CUSTOM = {
    "own limit": ({"limit": 3, "trial_length": 100}, [3, 6, 9], [3, 6, 9]),
    "trial_length": ({"limit": 3, "trial_length": 2}, [2, 4, 6, 8], [2, 4, 6, 8]),
    "own limit at trial_length": ({"limit": 3, "trial_length": 3}, [3, 6, 9], [3, 6, 9]),
    "true end before any limit": ({"limit": 5, "end": 3, "trial_length": 4}, [3, 6, 9], []),
    "true end at its own limit": ({"limit": 3, "end": 3, "trial_length": 100}, [3, 6, 9], []),
    "true end at trial_length": ({"end": 3, "trial_length": 3}, [3, 6, 9], []),
}


@pytest.mark.parametrize("time_limit_is_end", [False, True])
@pytest.mark.parametrize("target", ["own_envs:Clock", "own_envs:make_single_clock"], ids=["batched", "single"])
@pytest.mark.parametrize("case", CUSTOM)
def test_of_a_torchrl_environment_episodes_are_trials(case, target, time_limit_is_end, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    settings, done, cut_off = CUSTOM[case]
    own = [f"env.settings.{name}={value}" for name, value in settings.items() if name != "trial_length"]
    rules = [f"env.trial_length={settings['trial_length']}", f"env.time_limit_is_end={time_limit_is_end}"]
    env = build_env(compose_config("train", ["env=custom", f"env.target={target}", *own, *rules]).env, 2, 0)
    check_env_specs(env)
    steps = check_all_alike(env, 9)
    flags = flags_of(steps)
    assert flags["done"] == flags["episode_end"] == done
    assert flags["terminated"] == ([] if cut_off else done)
    assert flags["episode_truncated"] == ([] if time_limit_is_end else cut_off)
    length = done[0]
    assert steps["next", "observation", "t"].flatten().tolist() == [step % length + 1 for step in range(9)]
    env.close()
