from itertools import pairwise

import numpy as np
import pytest
from habitat.config import read_write
from habitat.config.default_structured_configs import (
    CollisionsMeasurementConfig,
    TopDownMapMeasurementConfig,
)
from habitat.core.simulator import Simulator
from habitat.utils.visualizations import maps

from memo_lightning.envs.habitat import import_habitat
from memo_lightning.envs.habitat.config import make_config
from memo_lightning.envs.habitat.simulator import HouseSim
from memo_lightning.errors import UserError
from memo_lightning.houses import REFERENCE_CAMERA, HouseSpec

STOP, FORWARD, LEFT, RIGHT, UP, DOWN = range(6)


@pytest.fixture
def sim(env):
    env.sim.reset()
    return env.sim


def test_it_is_a_simulator_of_habitats_registry(sim):
    assert isinstance(sim, Simulator)
    assert import_habitat().registry.get_simulator("HouseSim-v0") is HouseSim


def test_observations_fit_the_spaces_and_the_units(sim):
    observations = sim.step(None)
    for name, space in sim.sensor_suite.observation_spaces.spaces.items():
        assert observations[name].shape == space.shape
        assert observations[name].dtype == space.dtype
        assert space.contains(observations[name])
    metres = sim.view_from(sim.pose).depth(REFERENCE_CAMERA)
    np.testing.assert_allclose(observations["depth"][..., 0], np.minimum(metres, 10) / 10, rtol=1e-6)


def test_left_turns_add_to_a_circle_and_right_undoes_left(sim):
    start = sim.pose
    first = sim.step(None)["rgb"]
    for _ in range(12):
        sim.step(LEFT)
    assert sim.pose == start
    turned = sim.step(LEFT)["rgb"]
    assert not np.array_equal(turned, first)
    np.testing.assert_array_equal(sim.step(RIGHT)["rgb"], first)


def test_a_step_goes_where_the_rotation_says(sim):
    for _ in range(12):
        state = sim.get_agent_state()
        forward = (state.rotation * np.quaternion(0, 0, 0, -1) * state.rotation.inverse()).vec
        sim.step(FORWARD)
        moved = sim.get_agent_state().position - state.position
        if not sim.previous_step_collided:
            np.testing.assert_allclose(moved, 0.25 * forward, atol=1e-9)
        sim.step(LEFT)


def test_turning_left_moves_what_is_seen_to_the_right(env):
    env.reset()
    sim = env.sim
    placed = sim.placement.objects[0]
    sim.set_agent_state([placed.view.x, 0, placed.view.z], placed.view.rotation)
    sim.tilt_camera(placed.view.pitch)
    columns = []
    for _ in range(2):
        shown = np.nonzero(sim.step(None)["semantic"][..., 0] == placed.instance)[1]
        columns.append(shown.mean() if len(shown) else 64)
        sim.step(LEFT)
    assert columns[1] > columns[0]


def test_the_state_can_be_set_and_read_back(sim):
    for heading in (0, 30, 150, 180, 210, 330):
        point = sim.sample_navigable_point()
        half = np.deg2rad(heading) / 2
        assert sim.set_agent_state(point, [0, np.sin(half), 0, np.cos(half)])
        state = sim.get_agent_state()
        np.testing.assert_allclose(state.position, point)
        image = sim.step(None)["rgb"]
        sim.set_agent_state(sim.sample_navigable_point(), [0, 0, 0, 1])
        assert sim.set_agent_state(state.position, state.rotation)
        np.testing.assert_array_equal(sim.step(None)["rgb"], image)
    inside_a_wall = [0.05, 0.0, 0.05]
    before = sim.pose
    assert not sim.set_agent_state(inside_a_wall, [0, 0, 0, 1])
    assert sim.pose == before


def test_observing_from_elsewhere_leaves_the_agent_where_it_is(sim):
    sim.tilt_camera(30)
    before, image = sim.pose, sim.step(None)["rgb"]
    there = sim.get_observations_at(sim.sample_navigable_point(), [0, 0, 0, 1])
    assert not np.array_equal(there["rgb"], image)
    assert sim.pose == before
    np.testing.assert_array_equal(sim.step(None)["rgb"], image)
    assert sim.get_observations_at([0.05, 0, 0.05], [0, 0, 0, 1]) is None


def test_the_camera_tilts_within_its_limits_and_looks_ahead_after_a_reset(sim):
    for _ in range(5):
        sim.tilt_camera(30)
    assert sim.pose.pitch == 60
    for _ in range(9):
        sim.tilt_camera(-30)
    assert sim.pose.pitch == -60
    sim.reset()
    assert sim.pose.pitch == 0


def test_sampled_points_are_navigable_and_follow_the_seed(sim):
    sim.seed(3)
    points = [sim.sample_navigable_point() for _ in range(50)]
    assert all(sim.is_navigable(point) for point in points)
    sim.seed(3)
    assert points == [sim.sample_navigable_point() for _ in range(50)]
    assert not sim.is_navigable([points[0][0], 2.0, points[0][2]])


def test_geodesic_distance_takes_one_or_many_goals_and_keeps_them_with_the_episode(env):
    env.reset()
    sim = env.sim
    here, a, b = (sim.sample_navigable_point() for _ in range(3))
    one, other = sim.geodesic_distance(here, a), sim.geodesic_distance(here, np.array(b))
    assert sim.geodesic_distance(here, [a, b]) == min(one, other)
    path = sim.get_straight_shortest_path_points(here, a)
    length = sum(np.linalg.norm(q - p) for p, q in pairwise(path))
    assert length == pytest.approx(one, abs=1e-4)
    goals = [goal.position for goal in env.current_episode.goals]
    with_episode = sim.geodesic_distance(here, goals, env.current_episode)
    assert with_episode == sim.geodesic_distance(here, goals)
    assert env.current_episode._shortest_path_cache is not None


def test_habitats_own_map_functions_draw_the_house(sim):
    image = maps.get_topdown_map_from_sim(sim, map_resolution=256, draw_border=False)
    rng = np.random.default_rng(0)
    lower, upper = sim.pathfinder.get_bounds()
    agree = []
    for _ in range(500):
        x, z = rng.uniform(lower[0], upper[0]), rng.uniform(lower[2], upper[2])
        row, column = maps.to_grid(z, x, image.shape, sim=sim)
        agree.append(bool(image[row, column]) == sim.is_navigable([x, 0, z]))
    assert np.mean(agree) > 0.95


def test_bad_arguments_are_named(sim):
    with pytest.raises(ValueError, match=r"action=17: must be None or one of 0 \(stop\), 1 \(move_forward\)"):
        sim.step(17)
    with pytest.raises(ValueError, match="'infrared'"):
        sim.render("infrared")


def test_a_missing_scene_is_an_error_that_names_it():
    config = make_config()
    with read_write(config):
        config.habitat.simulator.scene = "data/scenes/apartment_1.glb"
    with pytest.raises(UserError, match=r"apartment_1.glb.*: must be a generated house"):
        HouseSim(config.habitat.simulator)


def test_another_radius_than_the_houses_are_made_for_is_refused():
    config = make_config()
    with read_write(config):
        config.habitat.simulator.agents.main_agent.radius = 0.5
    with pytest.raises(UserError, match=r"agent radius=0\.5"):
        HouseSim(config.habitat.simulator)


def test_the_scene_follows_the_episode(env):
    env.reset()
    scenes = set()
    for spec in (HouseSpec(100_001), HouseSpec(100_003)):
        config = env.sim.habitat_config.copy()
        with read_write(config):
            config.scene = spec.scene_id
        env.sim.reconfigure(config)
        scenes.add(env.sim.pathfinder.get_bounds()[1].tobytes())
        assert env.sim.placement.objects == ()
    assert len(scenes) == 2
    env.reset()


def test_habitats_own_map_and_collision_measures_work():
    config = make_config(sensors=("rgb",), split="held_out", dataset={"n_placements": 1})
    with read_write(config):
        config.habitat.task.measurements["top_down_map"] = TopDownMapMeasurementConfig(map_resolution=200)
        config.habitat.task.measurements["collisions"] = CollisionsMeasurementConfig()
    with import_habitat().Env(config) as env:
        env.reset()
        start = env.get_metrics()["top_down_map"]["map"].copy()
        n_collisions = 0
        for step in range(60):
            env.step(LEFT if step % 9 == 8 else FORWARD)
            n_collisions += env.sim.previous_step_collided
        metrics = env.get_metrics()
    image = metrics["top_down_map"]["map"]
    assert (start == maps.MAP_TARGET_POINT_INDICATOR).any()
    assert (start == maps.MAP_SHORTEST_PATH_COLOR).any()
    assert (image >= 10).sum() > 20  # the agent's path
    assert metrics["collisions"]["count"] == n_collisions > 0
