"""Steps of all agents, with the measures of habitat-lab (Success, SPL, SoftSPL, DistanceToGoal) and the reward."""

from __future__ import annotations

import numpy as np
from numba import njit

from memo_lightning.houses.batch.cameras import LEVEL, PITCHES
from memo_lightning.houses.batch.rendering import render
from memo_lightning.houses.navigation import nearest_goal, slide
from memo_lightning.houses.pose import HEADINGS, Pose
from memo_lightning.houses.rules import (
    FORWARD_STEP,
    SLACK_REWARD,
    SUCCESS_DISTANCE,
    SUCCESS_PIXELS,
    SUCCESS_REWARD,
)

STOP, FORWARD, LEFT, RIGHT, UP, DOWN = range(6)
ACTION_NAMES = ("stop", "forward", "turn left", "turn right", "look up", "look down")
AHEAD = np.array([Pose(0.0, 0.0, 0.0, heading).ahead(FORWARD_STEP) for heading in HEADINGS])
_N_TURNS, _N_PITCHES = len(HEADINGS), len(PITCHES)
# Tolerances as in numpy.allclose: an agent that has moved less keeps its last measured distance.
_ABSOLUTE, _RELATIVE = 1e-4, 1e-5


@njit(cache=True, nogil=True, error_model="numpy")
def step_agents(agents, scenes, lens, actions, first, stride):  # type: ignore[no-untyped-def]
    """Step every agent, with the navigator's sliding and distances; ``lens`` is that of the reference camera."""
    size = len(lens.rows), len(lens.columns)
    depth, solid = np.empty(size, np.float32), np.empty(size, np.int32)
    episode_steps = agents.path.shape[1] - 1
    for row in range(first, len(actions), stride):
        action = actions[row]
        before_x, before_z = agents.position[row, 0], agents.position[row, 2]
        agents.collided[row] = False
        found = False
        if action == STOP:
            found = _finds(agents, scenes, lens, row, depth, solid)
        elif action == FORWARD:
            place, turn = agents.place[row], agents.turn[row]
            blocks = scenes.blocks[place, : scenes.n_blocks[place]]
            moved = slide(before_x, before_z, AHEAD[turn, 0], AHEAD[turn, 1], blocks)
            agents.position[row, 0], agents.position[row, 2], agents.collided[row] = moved
        elif action == LEFT:
            agents.turn[row] = (agents.turn[row] + 1) % _N_TURNS
        elif action == RIGHT:
            agents.turn[row] = (agents.turn[row] - 1) % _N_TURNS
        elif action == UP:
            agents.tilt[row] = min(agents.tilt[row] + 1, _N_PITCHES - 1)
        else:
            agents.tilt[row] = max(agents.tilt[row] - 1, 0)

        before = agents.distance[row]
        if _has_moved(agents.measured_at[row], agents.position[row]):
            _measure_distance(agents, scenes, row)
        dx, dz = agents.position[row, 0] - before_x, agents.position[row, 2] - before_z
        agents.walked[row] += np.sqrt(dx * dx + dz * dz)
        distance, start = agents.distance[row], agents.start_distance[row]
        agents.success[row] = 1.0 if found and distance < SUCCESS_DISTANCE else 0.0
        efficiency = start / max(start, agents.walked[row])
        agents.spl[row] = agents.success[row] * efficiency
        agents.soft_spl[row] = max(0.0, 1.0 - distance / start) * efficiency
        agents.reward[row] = SUCCESS_REWARD * agents.success[row] + -(distance - before) + SLACK_REWARD
        agents.elapsed[row] += 1
        agents.path[row, agents.elapsed[row], 0] = agents.position[row, 0]
        agents.path[row, agents.elapsed[row], 1] = agents.position[row, 2]
        agents.over[row] = action == STOP or agents.elapsed[row] >= episode_steps


@njit(cache=True, nogil=True, error_model="numpy")
def start_episodes(agents, scenes, rows, positions, turns, goals):  # type: ignore[no-untyped-def]
    """Put the agents of environments ``rows`` at the start of an episode."""
    for k in range(len(rows)):
        row = rows[k]
        agents.position[row], agents.turn[row], agents.goal[row] = positions[k], turns[k], goals[k]
        agents.tilt[row], agents.elapsed[row], agents.walked[row] = LEVEL, 0, 0.0
        agents.collided[row], agents.over[row] = False, False
        _measure_distance(agents, scenes, row)
        distance = agents.distance[row]
        agents.start_distance[row] = distance
        agents.success[row] = agents.spl[row] = agents.reward[row] = 0.0
        agents.soft_spl[row] = max(0.0, 1.0 - distance / distance)
        agents.path[row, 0, 0], agents.path[row, 0, 1] = positions[k, 0], positions[k, 2]


@njit(cache=True, nogil=True, error_model="numpy")
def _has_moved(before, now):  # type: ignore[no-untyped-def]
    for axis in range(3):  # noqa: SIM110 - numba compiles no generators
        if not abs(before[axis] - now[axis]) <= _ABSOLUTE + _RELATIVE * abs(now[axis]):
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _measure_distance(agents, scenes, row):  # type: ignore[no-untyped-def]
    place, goal = agents.place[row], agents.goal[row]
    first, stop = scenes.goal_range[place, goal, 0], scenes.goal_range[place, goal, 1]
    agents.distance[row] = _distance(agents, scenes, row, first, stop, scenes.to_type[place, goal])
    agents.measured_at[row] = agents.position[row]


@njit(cache=True, nogil=True, error_model="numpy")
def _distance(agents, scenes, row, first, stop, lengths):  # type: ignore[no-untyped-def]
    """Return the geodesic distance, in metres, to the nearest of the goals ``first`` to ``stop - 1``."""
    place, n_corners = agents.place[row], scenes.n_corners[agents.place[row]]
    return nearest_goal(
        agents.position[row, 0], agents.position[row, 2], scenes.goal[place, first:stop],
        scenes.corners[place, :n_corners], lengths[:n_corners], scenes.blocks[place, : scenes.n_blocks[place]],
    )[0]  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _finds(agents, scenes, lens, row, depth, solid):  # type: ignore[no-untyped-def]
    """Return whether a single instance of the goal type is both near and in view."""
    place, goal = agents.place[row], agents.goal[row]
    rendered = False
    for number in range(scenes.goal_range[place, goal, 0], scenes.goal_range[place, goal, 1]):
        lengths = scenes.to_goal[place, number]
        if not _distance(agents, scenes, row, number, number + 1, lengths) < SUCCESS_DISTANCE:
            continue
        if not rendered:
            x, y, z = agents.position[row]
            render(scenes, place, x, y, z, agents.turn[row], agents.tilt[row], lens, depth, solid)
            rendered = True
        n_pixels = 0
        for p in solid.flat:
            n_pixels += p >= 0 and scenes.instance[place, p] == scenes.goal_instance[place, number]
        if n_pixels >= SUCCESS_PIXELS:
            return True
    return False
