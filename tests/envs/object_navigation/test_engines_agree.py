"""The batched engine and habitat-lab's own environments agree bit for bit at every step."""

import numpy as np
import pytest
import torch

from memo_lightning.config import compose_config
from memo_lightning.envs.build import build_env
from memo_lightning.envs.habitat.agents import ShortestPathAgent
from memo_lightning.envs.habitat.trial import HabitatTrials
from memo_lightning.envs.interface import interface_of
from memo_lightning.houses.batch import BatchedTrials
from memo_lightning.houses.columns import columns_camera
from memo_lightning.houses.sources import generated_source

SMALL = {"n_houses": 2, "n_placements": 3, "min_rooms": 2, "max_rooms": 3, "n_types": 6, "n_objects": 8}
FULL = {"n_placements": 25}
ALL = ("rgb", "depth", "columns")
KINDS = [
    ("train", SMALL, ALL, "trial", True),
    ("held_out_placements", SMALL, ("columns",), "house", False),
    ("held_out", FULL, ALL, "house", True),
    ("train", FULL, ("rgb", "depth"), "trial", False),
    ("held_out", FULL, (), "trial", True),
]
# Mostly forward, so that agents move around and meet walls, with an occasional stop.
WALK = [0.03, 0.5, 0.15, 0.15, 0.1, 0.07]


def compare_trials(kind, placements, walks, n_steps, episode_steps=60):
    """Run trials with both engines, on shortest paths or at random; return the number of steps compared."""
    split, options, sensors, frame, can_tilt = kind
    reference = HabitatTrials(
        10**9, episode_steps, sensors, n_columns=16, can_tilt=can_tilt, split=split, dataset=options,
        position_frame=frame,
    )  # fmt: skip
    trials = BatchedTrials(
        generated_source(split, options), 2, episode_steps, sensors,
        columns=columns_camera(16), in_house=frame == "house", n_threads=2,
    )  # fmt: skip
    agent, rng = ShortestPathAgent(reference.habitat_env), np.random.default_rng(placements[0])
    chances = np.array(WALK[: reference.n_actions]) / sum(WALK[: reference.n_actions])
    n_compared = 0
    for placement in placements:
        observation, _ = reference.reset(options={"placement": placement})
        agent.reset()
        trials.begin_trials(np.arange(2), [(placement + 1) % reference._dataset.n_placements, placement])
        trials.observe()
        for _ in range(n_steps):
            assert set(observation) == set(trials.observations)
            for name, value in observation.items():
                np.testing.assert_array_equal(trials.observations[name][1], value, err_msg=name, strict=True)
            action = agent.act(observation) if walks else int(rng.choice(reference.n_actions, p=chances))
            observation, reward, _, _, info = reference.step(action)
            trials.step(np.array([rng.integers(reference.n_actions), action]))
            agents = trials.agents
            measured = {
                "reward": (reward, agents.reward),
                "episode_end": (info["episode_end"], agents.over),
                "episode_length": (info["episode_length"], agents.elapsed),
                "success": (info["success"], agents.success),
                "distance_to_goal": (info["distance_to_goal"], agents.distance),
                "spl": (np.float32(info["spl"]), agents.spl.astype(np.float32)),
                "soft_spl": (np.float32(info["soft_spl"]), agents.soft_spl.astype(np.float32)),
            }
            for name, (expected, values) in measured.items():
                assert values[1] == expected, name
            if not info["episode_end"]:
                assert agents.collided[1] == reference.habitat_env.sim.previous_step_collided
                assert trials.pose(1) == reference.habitat_env.sim.pose
            trials.begin_episodes(np.flatnonzero(agents.over))
            trials.observe()
            if info["episode_end"]:
                agent.reset()
            n_compared += 1
    reference.close()
    return n_compared


@pytest.mark.parametrize("walks", [True, False], ids=["shortest-path", "random"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_engines_agree_step_by_step(kind, walks):
    assert compare_trials(kind, [1, 4], walks, 100) == 200


@pytest.mark.slow
@pytest.mark.parametrize("walks", [True, False], ids=["shortest-path", "random"])
@pytest.mark.parametrize("part", range(4))
def test_engines_agree_over_a_hundred_trials(part, walks):
    """Compare whole trials of 200 steps in all kinds of houses: 100 with random actions, 100 on shortest paths."""
    kind = KINDS[part]
    n = generated_source(kind[0], kind[1]).n_placements
    placements = [k * n // 25 for k in range(25)]
    assert compare_trials(kind, placements, walks, 200, episode_steps=100) == 25 * 200


def make(engine, n_envs, *overrides):
    settings = ["env=ext_objnav", f"env.engine={engine}", "env.trial_length=40", "env.episode_length=15"]
    dataset = [f"env.dataset.{name}={value}" for name, value in SMALL.items()]
    return build_env(compose_config("train", [*settings, *dataset, *overrides]).env, n_envs, 0)


@pytest.mark.parametrize("sensors", ["[rgb,depth]", "[columns]", "[]"])
def test_environments_agree_over_many_trials(sensors):
    batched, reference = (make(engine, 3, f"env.sensors={sensors}") for engine in ("batched", "habitat"))
    assert interface_of(batched) == interface_of(reference)
    for spec in ("observation_spec", "action_spec", "reward_spec", "full_done_spec"):
        assert getattr(batched, spec) == getattr(reference, spec)
    actions = torch.multinomial(torch.tensor(WALK), 3 * 100, replacement=True).view(100, 3)

    def rollout(env):
        env.set_seed(5)
        taken = iter(actions)
        return env.rollout(100, lambda td: td.set("action", next(taken)), break_when_any_done=False)

    expected, found = rollout(reference), rollout(batched)
    assert set(found.keys(True, True)) == set(expected.keys(True, True))
    for key in expected.keys(True, True):
        assert torch.equal(found[key], expected[key]), key
    assert found["next", "done"].sum() == 3 * 2


def test_images_for_videos_agree():
    batched, reference = (make(engine, 2, "env.sensors=[columns]").base_env for engine in ("batched", "habitat"))
    for env in (batched, reference):
        env.watch()
        env.set_seed(3)
        state = env.reset()
        for k in range(20):
            state = env.step(state.set("action", torch.tensor([1 + k % 2, 2]))).get("next")
    for index in range(2):
        np.testing.assert_array_equal(batched.image(index), reference.image(index))
        np.testing.assert_array_equal(batched.last_image(index), reference.last_image(index))
