from dataclasses import replace

import numpy as np
import pytest

from memo_lightning.envs.habitat.agents import ShortestPathAgent
from memo_lightning.errors import UserError
from memo_lightning.houses import OBJECT_TYPES, REFERENCE_CAMERA, Pose

STOP, FORWARD, LEFT, RIGHT, UP, DOWN = range(6)


def go_to(env, pose: Pose):
    assert env.sim.set_agent_state([pose.x, 0.0, pose.z], pose.rotation)
    env.sim.tilt_camera(pose.pitch)


def nearest_goal(env):
    position = env.sim.get_agent_state().position
    goals = env.current_episode.goals
    goal = min(goals, key=lambda goal: env.sim.geodesic_distance(position, goal.position))
    return next(o for o in env.sim.placement.objects if o.instance == goal.object_name_id)


def test_a_stop_near_the_object_with_the_object_in_view_succeeds(env):
    env.reset()
    go_to(env, nearest_goal(env).view)
    env.step(STOP)
    assert env.episode_over
    assert env.get_metrics()["success"] == 1.0


def test_a_stop_near_the_object_without_looking_at_it_fails_and_ends_the_episode(env):
    env.reset()
    view = nearest_goal(env).view
    go_to(env, Pose(view.x, 0, view.z, (view.heading + 180) % 360))
    env.step(STOP)
    metrics = env.get_metrics()
    assert env.episode_over
    assert metrics["distance_to_goal"] < 2.0
    assert metrics["success"] == metrics["spl"] == 0.0


def test_a_stop_far_from_the_object_fails_even_if_it_is_in_view(env):
    for _ in range(200):  # find an episode whose goal can be seen from afar
        env.reset()
        for goal in env.current_episode.goals:
            target = next(o for o in env.sim.placement.objects if o.instance == goal.object_name_id)
            pose = far_view(env, target)
            if pose is not None:
                break
        else:
            continue
        break
    go_to(env, pose)
    assert env.sim.pixels_in_view(target.instance) >= 10
    env.step(STOP)
    assert env.get_metrics()["distance_to_goal"] >= 2.0
    assert env.get_metrics()["success"] == 0.0


def far_view(env, target):
    """Return a pose that sees an object well but is too far from all its instances; None if there is none."""
    goals = [goal.position for goal in env.current_episode.goals]
    for side in (-30, 0, 30):
        for back in (1.2, 1.8, 2.4):
            view = Pose(target.view.x, 0.0, target.view.z, (target.view.heading + side) % 360)
            dx, dz = view.ahead(-back)
            pose = Pose(view.x + dx, 0.0, view.z + dz, view.heading)
            at = [pose.x, 0.0, pose.z]
            shown = env.sim.view_from(pose).count_pixels(REFERENCE_CAMERA, target.instance)
            if shown >= 10 and env.sim.is_navigable(at) and env.sim.geodesic_distance(at, goals) > 2.1:
                return pose
    return None


def test_the_rewards_of_an_episode_add_up(env):
    rng = np.random.default_rng(0)
    for walks in (False, True):
        env.reset()
        agent = ShortestPathAgent(env)
        agent.reset()
        start = env.get_metrics()["distance_to_goal"]
        total, n_steps = 0.0, 0
        while not env.episode_over and n_steps < 60:
            env.step(agent.act(None) if walks else int(rng.integers(1, 6)))
            total += env.get_metrics()["ext_objnav_reward"]
            n_steps += 1
        metrics = env.get_metrics()
        expected = 2.0 * metrics["success"] + start - metrics["distance_to_goal"] - 0.003 * n_steps
        assert total == pytest.approx(expected, abs=1e-6)


def test_spl_compares_the_way_taken_with_the_shortest(env):
    env.reset()
    start = env.get_metrics()["distance_to_goal"]
    length, before = 0.0, env.sim.get_agent_state().position
    for action in [FORWARD, LEFT, FORWARD, RIGHT, RIGHT, FORWARD] * 4:
        env.step(action)
        after = env.sim.get_agent_state().position
        length, before = length + np.linalg.norm(after - before), after
    target = nearest_goal(env)
    length += np.linalg.norm(np.array([target.view.x, 0, target.view.z]) - before)
    go_to(env, target.view)
    env.step(STOP)
    assert env.get_metrics()["spl"] == pytest.approx(start / max(start, length))


def test_an_episode_ends_after_its_steps(env):
    env.reset()
    for step in range(500):
        assert not env.episode_over
        env.step(LEFT if step % 2 else RIGHT)
    assert env.episode_over
    assert env.get_metrics()["success"] == 0.0


def test_the_agent_is_told_which_type_to_find(env):
    observations = env.reset()
    names = [object_type.name for object_type in OBJECT_TYPES]
    assert observations["goal"].sum() == 1.0
    assert names[int(observations["goal"].argmax())] == env.current_episode.object_category
    assert {goal.object_category for goal in env.current_episode.goals} == {env.current_episode.object_category}


def test_positions_are_seen_from_where_the_first_episode_began(env):
    env.episode_iterator.set_next_episode_by_index(0)
    origin = env.reset()["position"]
    np.testing.assert_allclose(origin, [0, 0, 0, 1], atol=1e-6)
    first = env.sim.pose
    position = env.step(FORWARD)["position"]
    if not env.sim.previous_step_collided:
        np.testing.assert_allclose(position, [0, 0.25, 0, 1], atol=1e-6)
    np.testing.assert_allclose(env.step(LEFT)["position"][2:], [0.5, np.sqrt(0.75)], atol=1e-6)

    env.episode_iterator.set_next_episode_by_index(1)
    later = env.reset()["position"]
    pose = env.sim.pose
    forward, right = (
        np.array(first.ahead(1.0)),
        np.array(replace(first, heading=first.heading - 90).ahead(1.0)),
    )
    offset = np.array([pose.x - first.x, pose.z - first.z])
    np.testing.assert_allclose(later[:2], [offset @ right, offset @ forward], atol=1e-5)


def test_a_goal_that_cannot_be_reached_is_an_error_that_names_the_episode(env):
    env.reset()
    env.episode_iterator.set_next_episode_by_index(3)
    episode = env.episodes[3]
    for goal in episode.goals:
        goal.position = [0.05, 0.0, 0.05]  # inside a wall
    env.current_episode = episode
    with pytest.raises(
        UserError, match=rf"{episode.episode_id}: '{episode.object_category}' cannot be reached from its start"
    ):
        env.reset()
