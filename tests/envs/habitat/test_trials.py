import hashlib

import numpy as np
import pytest
from gym import spaces
from gymnasium.utils.env_checker import check_env

from memo_lightning.envs.habitat.trial import HabitatTrials, _modern
from memo_lightning.errors import UserError

STOP = 0
SMALL = {"n_houses": 2, "n_placements": 3, "min_rooms": 2, "max_rooms": 3, "n_types": 6, "n_objects": 8}


@pytest.fixture(scope="module")
def env():
    return HabitatTrials(trial_steps=40, episode_steps=15, sensors=("columns",), dataset=SMALL)


def run(env, actions):
    digest = hashlib.sha256()
    rewards = []
    for action in actions:
        observation, reward, *_ = env.step(action)
        rewards.append(reward)
        for name in sorted(observation):
            digest.update(observation[name].tobytes())
    return digest.hexdigest(), rewards


@pytest.mark.parametrize("sensors", [("rgb", "depth"), ("semantic",), ("columns",), ()])
def test_it_is_a_gymnasium_environment(sensors):
    env = HabitatTrials(trial_steps=30, episode_steps=10, sensors=sensors, dataset=SMALL)
    check_env(env, skip_render_check="rgb" not in sensors)
    observation, _ = env.reset(seed=0)
    assert set(observation) >= {"goal", "position"}
    assert env.observation_space.contains(observation)


def test_the_same_seed_gives_the_same_trial(env):
    actions = np.random.default_rng(0).integers(6, size=40)
    env.reset(seed=5)
    first = run(env, actions)
    env.reset(seed=5)
    assert run(env, actions) == first
    env.reset(seed=6)
    assert run(env, actions) != first


def test_a_trial_keeps_its_placement_over_its_episodes_and_the_next_draws_another(env):
    env.reset(seed=0)
    placements, trials = [], []
    for _ in range(8):
        before = env.habitat_env.sim.placement
        for step in range(40):
            *_, truncated, info = env.step(STOP)
            assert env.habitat_env.sim.placement is before
            assert info["episode_end"]
            assert info["episode_index"] == step
            assert truncated == (step == 39)
        placements.append(before)
        env.reset()
        trials.append(env.habitat_env.sim.placement is before)
    assert len({(placement.scene_id, placement.index) for placement in placements}) >= 4
    assert not all(trials)


def test_the_next_episode_begins_in_the_step_that_ends_one(env):
    observation, _ = env.reset(seed=1)
    goals = {tuple(observation["goal"])}
    for step in range(1, 40):
        observation, _, terminated, _, info = env.step(2)
        assert not terminated
        assert info["episode_end"] == (step % 15 == 0)
        assert info["episode_length"] == (step - 1) % 15 + 1
        if info["episode_end"]:
            assert env.habitat_env.sim.get_agent_state().position == pytest.approx(
                env.habitat_env.current_episode.start_position
            )
            current = np.flatnonzero(observation["goal"])
            assert len(current) == 1
            goals.add(tuple(observation["goal"]))
            assert not env.habitat_env.episode_over
    assert len(goals) > 1


def test_the_return_and_the_measures_of_an_episode_come_with_its_end(env):
    env.reset(seed=2)
    total = 0.0
    for _ in range(15):
        _, reward, _, _, info = env.step(2)
        total += reward
    assert info["episode_end"]
    assert info["episode_return"] == pytest.approx(total)
    assert info["success"] == info["spl"] == 0.0
    assert 0 < info["distance_to_goal"] < np.inf


def test_a_placement_can_be_chosen(env):
    env.reset(options={"placement": 4})
    assert env.habitat_env.sim.placement.index == 1
    assert env.habitat_env.sim.placement.scene_id.endswith("000001")
    with pytest.raises(UserError, match="placement=6: must be at least 0 and below 6"):
        env.reset(options={"placement": 6})


def test_without_tilting_there_are_four_actions():
    env = HabitatTrials(trial_steps=10, sensors=(), can_tilt=False, dataset=SMALL)
    assert env.action_space.n == 4
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action=4: must be an integer in 0..3"):
        env.step(4)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"trial_steps": 0}, "env.trial_length=0"),
        ({"episode_steps": 0}, "env.episode_length=0"),
        ({"sensors": ("rgb",), "image_size": 32}, "image_size=32: must be between 64 and 256"),
        ({"sensors": ("sonar",)}, "sensors='sonar': must be among rgb"),
        ({"n_columns": 0}, "n_columns=0: must be between 1 and 4096"),
        ({"simulator": "unity"}, "env.simulator='unity': must be house_sim or habitat_sim"),
        ({"scene_dataset": "a.json"}, "env.scene_dataset='a.json': must be empty"),
    ],
)
def test_bad_options_are_named(options, complaint):
    with pytest.raises(UserError, match=complaint):
        HabitatTrials(**{"sensors": ("columns",), **options})


def test_a_space_whose_bound_wraps_around_goes_up_to_its_types_highest():
    """The semantic sensor that habitat-lab has for habitat-sim uses such a space."""
    wrapped = spaces.Box(np.iinfo(np.uint32).min, np.iinfo(np.uint32).max, (4, 4, 1), np.int32)
    modern = _modern(wrapped)
    assert (modern.high == np.iinfo(np.int32).max).all()
    assert modern.contains(np.full((4, 4, 1), 30, np.int32))
    colours = _modern(spaces.Box(0, 255, (4, 4, 3), np.uint8))
    assert (colours.low == 0).all()
    assert (colours.high == 255).all()
