import os
import signal
import time

import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from memo_lightning.config import compose_config
from memo_lightning.envs.build import build_env
from memo_lightning.envs.habitat.ext_objnav import make_trial_env
from memo_lightning.envs.habitat.trial import HabitatTrials
from memo_lightning.envs.interface import interface_of
from memo_lightning.errors import EnvironmentFailure, UserError

DATASET = {"n_houses": 2, "n_placements": 3, "min_rooms": 2, "max_rooms": 2, "n_types": 4, "n_objects": 5}
SMALL = [
    "env=ext_objnav",
    "env.sensors=[columns]",
    "env.trial_length=24",
    "env.episode_length=8",
    *(f"env.dataset.{name}={value}" for name, value in DATASET.items()),
]


def make(n_envs=3, overrides=(), **changes):
    return build_env(compose_config("train", [*SMALL, *overrides]).env, n_envs, 0, **changes)


@pytest.fixture(scope="module")
def env():
    return make()


def test_it_is_a_torchrl_environment(env):
    check_env_specs(env)


def test_images_are_bytes():
    env = make(1, ["env.sensors=[rgb,depth]"])
    observation = env.reset()["observation"]
    for name, channels in (("rgb", 3), ("depth", 1)):
        assert observation[name].shape == (1, 64, 64, channels)
        assert observation[name].dtype == torch.uint8


def test_a_trajectory_is_the_trial_that_stepping_gives(env):
    """A trajectory in a rollout equals what a single environment gives for the same placement and actions."""
    env.set_seed(3)
    rollout = env.rollout(24, break_when_any_done=False)
    trajectory = rollout[1]
    seen = trajectory["observation"]
    trial = HabitatTrials(trial_steps=24, episode_steps=8, sensors=("columns",), n_columns=16, dataset=DATASET)
    matches = []
    for placement in range(6):
        observation, _ = trial.reset(options={"placement": placement})
        if not np.allclose(observation["column_range"].ravel(), seen["column_range"][0]):
            continue
        for step in range(24):
            observation, reward, _, truncated, info = trial.step(int(trajectory["action"][step]))
            after = trajectory["next"][step]
            following = after["observation"]
            np.testing.assert_array_equal(observation["column_range"].ravel(), following["column_range"])
            np.testing.assert_array_equal(observation["column_type"], following["column_type"])
            np.testing.assert_array_equal(observation["goal"], following["goal"])
            np.testing.assert_allclose(observation["position"], following["position"][:4], rtol=1e-6)
            assert float(after["reward"]) == pytest.approx(reward, abs=1e-6)
            assert bool(after["done"]) == bool(after["terminated"]) == truncated, "its limits are ends"
            for name in ("episode_end", "success", "episode_return", "episode_length"):
                assert float(after[name]) == pytest.approx(float(info[name]), abs=1e-6)
            assert float(after["measures", "spl"]) == pytest.approx(float(info["spl"]), abs=1e-6)
        matches.append(placement)
    assert len(matches) == 1


def test_what_the_policy_knows_of_its_past_is_its_last_action_and_the_time(env):
    trajectory = env.rollout(24, break_when_any_done=False)[0]
    previous, action, end = (
        trajectory["observation", "previous_action"],
        trajectory["action"],
        trajectory["next", "episode_end"].squeeze(-1),
    )
    expected = torch.where(end[:-1], 0, action[:-1] + 1)
    assert previous[0] == 0
    assert torch.equal(previous[1:], expected)
    length = torch.where(end, 0, trajectory["next", "episode_length"].squeeze(-1))
    torch.testing.assert_close(trajectory["next", "observation", "episode_time"].squeeze(-1), length / 8)


def test_the_reward_is_no_part_of_what_is_observed(env):
    """The reward would reveal whether the last step led nearer to the goal."""
    trajectory = env.rollout(24, break_when_any_done=False)[0]
    action = torch.eye(6)[trajectory["action"][:-1]]
    end = trajectory["next", "episode_end"][:-1].float()
    assert torch.equal(trajectory["previous_step"][1:], torch.cat([action, end], -1))
    assert "spl" not in [key.name for key in interface_of(env).keys]


def test_the_goal_is_seen_in_the_columns_of_its_type():
    env = make_trial_env(trial_steps=400, episode_steps=40, sensors=("columns",), n_columns=16, dataset=DATASET)
    observation, _ = env.reset(seed=0)
    seen = 0
    for action in np.random.default_rng(0).choice([1, 1, 2, 3], 399):
        observation, *_ = env.step(int(action))
        goal = 1 + int(observation["goal"].argmax())
        is_goal = observation["column_type"] == goal
        nearness = 1 - observation["column_range"].reshape(16, 2)[:, 1]
        np.testing.assert_allclose(observation["column_goal"], np.where(is_goal, nearness, 0), atol=1e-6)
        seen += bool(is_goal.any())
    assert 10 < seen < 390


def test_objects_out_of_range_are_obstacles_like_others():
    near, far = (
        make_trial_env(object_range, trial_steps=200, sensors=("columns",), n_columns=16, dataset=DATASET)
        for object_range in (1.5, 8.0)
    )
    pairs = [(near.reset(seed=0)[0], far.reset(seed=0)[0])]
    pairs += [(near.step(int(a))[0], far.step(int(a))[0]) for a in np.random.default_rng(0).choice([1, 1, 2, 3], 199)]
    hidden = 0
    for observation, all_seen in pairs:
        within = all_seen["column_range"][1::2] <= 1.5 / 8
        np.testing.assert_array_equal(observation["column_range"][::2], all_seen["column_range"][::2])
        np.testing.assert_array_equal(
            observation["column_range"][1::2], np.where(within, all_seen["column_range"][1::2], 1)
        )
        for name in ("column_type", "column_goal"):
            np.testing.assert_array_equal(observation[name], np.where(within, all_seen[name], 0))
        hidden += bool((~within & (all_seen["column_type"] > 0)).any())
    assert hidden > 10
    with pytest.raises(UserError, match=r"env.object_range=9: must be above 0 and at most 8.0"):
        make_trial_env(9, sensors=("columns",), dataset=DATASET)


def test_a_place_is_written_with_waves_of_four_lengths():
    observation, _ = make_trial_env(trial_steps=9, sensors=(), position_frame="house", dataset=DATASET).reset(seed=0)
    x, ahead = observation["position"][:2]
    waves = [2 * np.pi * value / length for value in (x, ahead) for length in (2, 4, 8, 16)]
    np.testing.assert_allclose(observation["position"][4:], [*np.sin(waves), *np.cos(waves)], atol=1e-5)


def test_in_the_frame_of_the_house_the_position_is_where_the_agent_stands():
    trial = HabitatTrials(trial_steps=9, sensors=(), position_frame="house", dataset=DATASET)
    observation, _ = trial.reset(seed=0)
    pose = trial.habitat_env.sim.pose
    heading = np.radians(pose.heading)
    np.testing.assert_allclose(observation["position"], [pose.x, -pose.z, np.sin(heading), np.cos(heading)], atol=1e-5)
    with pytest.raises(UserError, match="position_frame='room': must be trial or house"):
        HabitatTrials(sensors=(), position_frame="room")  # type: ignore[arg-type]


@pytest.mark.slow
def test_workers_give_what_one_process_gives_and_one_that_dies_ends_the_run_at_once():
    alone, spread = make(2), make(2, ["env.engine=habitat"], workers=1)
    try:
        actions = alone.rollout(24, break_when_any_done=False)["action"]
        for env in (alone, spread):
            env.set_seed(7)
        steps = []
        for env in (alone, spread):
            data = env.reset()
            for step in range(24):
                data["action"] = actions[:, step]
                data = env.step_mdp(env.step(data))
            steps.append(data)
        for name in ("column_range", "position", "goal"):
            torch.testing.assert_close(steps[0]["observation", name], steps[1]["observation", name])
        torch.testing.assert_close(steps[0]["episode_return"], steps[1]["episode_return"])

        worker = spread.base_env._runners._workers[0].process
        os.kill(worker.pid, signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(EnvironmentFailure):
            spread.rollout(24, break_when_any_done=False)
        assert time.monotonic() - start < 30
    finally:
        spread.close(raise_if_closed=False)
