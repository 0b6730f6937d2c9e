"""Trials of Gymnasium environments, compared with stepping the environment by hand."""

import time

import gymnasium
import numpy as np
import pytest
import torch
from torchrl.envs import check_env_specs
from toys import Everything, Keeps, OwnTrials, Walk, faulty

from memo_lightning.envs.build import build_env
from memo_lightning.envs.gymnasium import GymnasiumEnv, SelectComponents
from memo_lightning.envs.interface import interface_of
from memo_lightning.errors import EnvironmentFailure, UserError
from memo_lightning.policies import ObservationEncoder
from memo_lightning.policies.action import Action


def rollout(env, steps=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randint(0, 2, (20, steps), generator=generator)[: env.batch_size[0]]
    taken = iter(actions.unbind(1))
    return env.rollout(steps, lambda td: td.set("action", next(taken)), break_when_any_done=False)


def seeds_of(observations):
    """Return the seeds that Walk was reset with."""
    high, low = observations[..., 0].flatten().tolist(), observations[..., 1].flatten().tolist()
    return [int(a) * 65536 + int(b) for a, b in zip(high, low, strict=True)]


@pytest.mark.parametrize("make", [Walk, OwnTrials, Everything])
def test_specs_hold(make):
    check_env_specs(GymnasiumEnv(n_envs=3, make=make, trial_length=7))


@pytest.mark.parametrize(("trial_length", "episodes"), [(11, None), (1000, 3), (9, 2)])
def test_trials_equal_stepping_by_hand(trial_length, episodes):
    env = GymnasiumEnv(n_envs=4, make=Walk, trial_length=trial_length, episodes_per_trial=episodes, seed=5)
    for trajectory in rollout(env):
        trial_step = episode = step = 0
        total, env = 0.0, Walk()
        for t in range(40):
            if step == 0:
                env.reset(seed=seeds_of(trajectory["observation", "observation"][t])[0])
            seen = env._observe().astype(np.float32)
            np.testing.assert_array_equal(trajectory["observation", "observation"][t], seen)
            action = int(trajectory["action"][t]) - 1
            _, reward, over, _, _ = env.step(action)
            trial_step, step, total = trial_step + 1, step + 1, total + reward
            done = trial_step == trial_length or (over and episode + 1 == episodes)
            after = trajectory["next"][t]
            assert after["reward"] == reward
            assert after["episode_return"] == total
            assert after["episode_length"] == step
            assert after["episode_end"] == over
            assert after["success"] == (over and action == 1)
            assert after["done"] == done
            assert after["terminated"] == (done and over), "the walk itself only ends truly"
            assert after["truncated"] == (done and not over)
            assert after["episode_truncated"] == (done and not over)
            if over or done:
                step, total, episode = 0, 0.0, episode + 1
            if done:
                trial_step = episode = 0


def test_an_environment_may_make_its_trials_itself():
    steps = rollout(GymnasiumEnv(n_envs=2, make=OwnTrials, trial_length=100), steps=12)
    after = steps["next"]
    assert after["done"][0].flatten().nonzero().flatten().tolist() == [5, 11]
    assert after["episode_end"][0].flatten().tolist() == [False, True] * 6
    assert after["episode_return"][0].flatten().tolist() == [1, 2] * 6
    assert after["success"][0].flatten().nonzero().flatten().tolist() == [3, 9]
    assert steps["observation", "goal"][0].tolist() == [0, 0, 1, 1, 2, 2] * 2


def test_episodes_of_a_trial_keep_their_task_as_the_environment_can():
    def trials(make, same_task):
        env = GymnasiumEnv(n_envs=1, make=make, trial_length=100, episodes_per_trial=4, same_task=same_task)
        steps = rollout(env, steps=60)[0]
        trial = steps["next", "done"].flatten().cumsum(0) - steps["next", "done"].flatten().long()
        return [set(seeds_of(steps["observation", "observation"][trial == k])) for k in range(3)]

    assert [len(seeds) for seeds in trials(Walk, "none")] == [4, 4, 4]
    for make, same_task in ((Walk, "seed"), (Keeps, "option")):
        first, second, third = trials(make, same_task)
        assert len(first) == len(second) == len(third) == 1
        assert len(first | second | third) == 3


def test_results_do_not_depend_on_the_environments_beside_and_seeds_repeat():
    few, many, other = (
        rollout(GymnasiumEnv(n_envs=n, make=Walk, trial_length=15, seed=seed)) for n, seed in ((3, 7), (8, 7), (3, 8))
    )
    for key in few.keys(True, True):
        assert torch.equal(few[key], many[:3][key]), key
    assert not torch.equal(few["observation", "observation"], other["observation", "observation"])
    env = GymnasiumEnv(n_envs=3, make=Walk, trial_length=15, seed=1)
    rollout(env)
    env.set_seed(7)
    assert torch.equal(rollout(env)["observation", "observation"], few["observation", "observation"])


def test_held_out_seeds_are_never_trained_on():
    def seeds(split):
        env = GymnasiumEnv(n_envs=8, make=Walk, trial_length=15, split=split)
        return seeds_of(rollout(env)["observation", "observation"])

    assert {seed % 2 for seed in seeds("train")} == {0}
    assert {seed % 2 for seed in seeds("held_out")} == {1}
    assert {seed % 2 for seed in seeds("all")} == {0, 1}


def test_partial_reset_touches_only_the_environments_it_names():
    env = GymnasiumEnv(n_envs=3, make=Walk, trial_length=50)
    td = env.step(env.reset().set("action", torch.zeros(3, dtype=torch.int64)))["next"]
    before = td["observation", "observation"].clone()
    after = env.reset(td.set("_reset", torch.tensor([[False], [True], [False]])))["observation", "observation"]
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert after[1, 3] == 0


def test_every_kind_of_observation_arrives_as_it_was():
    env = GymnasiumEnv(n_envs=1, make=Everything, trial_length=10)
    td = env.reset()
    for _ in range(3):
        seen, last = td["observation"][0], env._runners._runners[0].env.last
        np.testing.assert_array_equal(seen["vector"], last["vector"].flatten())
        assert seen["choice"] == last["choice"] - 3
        np.testing.assert_array_equal(seen["choices"], last["choices"])
        np.testing.assert_array_equal(seen["flags"], last["flags"])
        np.testing.assert_array_equal(seen["image"], last["image"])
        np.testing.assert_array_equal(seen["first"], last["first"].transpose(1, 2, 0))
        np.testing.assert_array_equal(seen["grey"], last["grey"][..., None])
        assert seen["pair_0"] == last["pair"][0]
        np.testing.assert_array_equal(seen["pair_1"], last["pair"][1])
        td = env.step(env.rand_action(td))["next"]
    assert env.observation_spec["observation", "image"].dtype == torch.uint8


def test_continuous_actions_stay_within_their_bounds():
    env = build_env(
        {"_target_": "memo_lightning.envs.gymnasium.GymnasiumEnv", "id": "Pendulum-v1", "trial_length": 20}, 2, 0
    )
    td = env.rollout(20)
    assert td["action"].shape == (2, 20, 1)
    assert 1 < td["action"].abs().max() <= 2
    assert torch.equal(td["previous_step"][:, 1:, :1], td["action"][:, :-1])


def test_components_can_be_hidden():
    env = SelectComponents(gymnasium.make("Pendulum-v1"), keep=[0, 1])
    whole, _ = gymnasium.make("Pendulum-v1").reset(seed=3)
    np.testing.assert_array_equal(env.reset(seed=3)[0], whole[:2])
    assert env.observation_space.contains(whole[:2])
    with pytest.raises(UserError, match="keep=\\[3\\]: must be indices of the 3 components"):
        SelectComponents(gymnasium.make("Pendulum-v1"), keep=[3])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "shape",
            r"^environment 0 \(<Faulty instance>\): observation 'observation' has shape \(3,\); its space says "
            r"\(2,\)$",
        ),
        ("dtype", r"observation 'observation' has dtype <U1; its space says float32"),
        ("reward", r"the reward is None; must be a number"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_that_breaks_the_spec_is_one_line(fault, message, workers):
    env = GymnasiumEnv(n_envs=2, make=faulty(fault), trial_length=10, workers=workers)
    with pytest.raises(UserError, match=message) as error:
        env.rollout(5)
    assert "\n" not in str(error.value)


def test_what_an_environment_raises_is_shown_with_its_own_trace():
    with pytest.raises(
        EnvironmentFailure, match=r"environment 0 \(.*\): RuntimeError: the motor is on fire\n(.*\n)*.*in step"
    ):
        GymnasiumEnv(n_envs=2, make=faulty("raise"), trial_length=10).rollout(5)


def test_an_environment_that_hangs_in_this_process_ends_the_run():
    env = GymnasiumEnv(n_envs=2, make=faulty("hang"), trial_length=10, step_timeout=0.5)
    start = time.monotonic()
    with pytest.raises(
        EnvironmentFailure, match=r"hangs: no answer within 0.5 s \(env.step_timeout\)\n(.*\n)*.*toys.py"
    ):
        env.rollout(5)
    assert time.monotonic() - start < 5


def test_several_choices_may_have_any_shape():
    """A table of choices, in observations or actions, is flat for the policy and keeps its shape in the environment."""
    env = build_env({"_target_": "memo_lightning.envs.gymnasium.GymnasiumEnv", "make": Table, "trial_length": 6}, 3, 0)
    check_env_specs(env)
    encoder = ObservationEncoder(interface_of(env).observed(), 8)
    steps = env.rollout(6)
    assert steps["observation", "observation"].shape == (3, 6, 4)
    assert encoder(steps).shape == (3, 6, 8)
    assert torch.equal(steps["observation", "observation"][:, 1:], steps["action"][:, :-1])


class Table(gymnasium.Env):
    """Observes its last action, a 2 x 2 table of choices."""

    observation_space = action_space = gymnasium.spaces.MultiDiscrete([[3, 4], [2, 5]])

    def reset(self, *, seed=None, options=None):
        return np.zeros((2, 2), np.int64), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return action, 0.0, False, False, {}


def test_actions_that_are_whole_numbers_are_the_nearest_ones():
    action = Action(gymnasium.spaces.Box(-2, 2, (3,), np.int8))
    taken = action.to_env(np.array([-1.6, 0.4, 1.9], np.float32))
    assert taken.tolist() == [-2, 0, 2]
    assert action.space.contains(taken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "env.id=null: must be the id"),
        ({"id": "CartPol-v1"}, "env.id=CartPol-v1: no such environment; did you mean CartPole-v1"),
        ({"id": "nowhere:Env-v0"}, "env.id=nowhere:Env-v0: nowhere cannot be imported"),
        ({"settings": {"colour": "red"}}, "env.settings={.*'colour': 'red'}: .*colour"),
        ({"wrappers": ["gymnasium.wrappers.Nothing"]}, "env.wrappers=gymnasium.wrappers.Nothing: cannot be imported"),
        ({"trial_length": 0}, "env.trial_length=0: must be at least 1"),
        ({"episodes_per_trial": 0}, "env.episodes_per_trial=0: must be at least 1"),
        ({"episode_length": 0}, "env.episode_length=0: must be at least 1"),
        (
            {"same_task": "seed", "episodes_per_trial": 1},
            "env.same_task='seed': must be none .*env.episodes_per",
        ),
        ({"same_task": "maybe"}, "env.same_task='maybe': must be one of none, seed, option"),
        ({"split": "test"}, "env.split='test': must be one of"),
        ({"workers": 3}, "env.workers=3: must be between 0 and n_envs=2"),
        ({"step_timeout": 0}, "env.step_timeout=0: must be greater than 0"),
        ({"ignore": ["colour"]}, "env.ignore=.*'colour'.*: must be among the observation keys, observation"),
        ({"ignore": ["observation"]}, "must be a list that leaves at least one observation key"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        GymnasiumEnv(**{"n_envs": 2, "id": "CartPole-v1", "trial_length": 10, **change})


BIT = gymnasium.spaces.Discrete(2)


class Unsupported(Walk):
    def __init__(self, **spaces):
        self.__dict__.update(spaces)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"observation_space": gymnasium.spaces.Dict(a=BIT, mission=gymnasium.spaces.Text(9))},
            r"observation 'mission' is a Text space, .* env.ignore=\[mission\]",
        ),
        (
            {"observation_space": gymnasium.spaces.Dict(a_b=BIT, a=gymnasium.spaces.Dict(b=BIT))},
            "'a_b': two keys have this name; rename one with a wrapper",
        ),
        ({"action_space": gymnasium.spaces.Box(-np.inf, 1, (2,))}, "must have finite bounds"),
        ({"action_space": gymnasium.spaces.Text(3)}, "action space Text: must be Discrete"),
    ],
)
def test_spaces_that_are_not_supported_are_named(space, message):
    with pytest.raises(UserError, match=message):
        GymnasiumEnv(n_envs=1, make=lambda: Unsupported(**space), trial_length=5)
