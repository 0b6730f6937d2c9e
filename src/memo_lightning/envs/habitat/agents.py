"""Two agents without training: one that knows the way and proves the task solvable, and a random one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import habitat
import numpy as np
from habitat.sims.habitat_simulator.actions import HabitatSimActions

from memo_lightning.envs.habitat.simulator import HouseSim
from memo_lightning.houses import REFERENCE_CAMERA, Pose
from memo_lightning.houses.navigation import DistanceField
from memo_lightning.houses.placement import PlacedObject
from memo_lightning.houses.pose import HEADINGS, look_at

_STOP_DISTANCE = 1.95  # metres along the shortest path; an episode succeeds below 2
_TURN_COST = 1e-4  # metres that a degree of turning costs, against swaying between two headings
_LEAST_PROGRESS = 0.05  # metres; if a step gains less, two steps are considered


class RandomAgent(habitat.Agent):
    """Agent that takes every action with the same probability.

    Args:
        n_actions: number of actions.
        seed: seed of its choices.
    """

    def __init__(self, n_actions: int, seed: int) -> None:
        self._n_actions = n_actions
        self._rng = np.random.default_rng(seed)

    def reset(self) -> None:
        """Do nothing: the random sequence continues."""

    def act(self, observations: Any) -> int:
        """Return a random action."""
        return int(self._rng.integers(self._n_actions))


class ShortestPathAgent(habitat.Agent):
    """Agent that walks the shortest path to the nearest instance and stops once it sees it from near enough.

    It reads the simulator instead of its observations. Its headings must be multiples of the turning angle, as in all
    episodes of the dataset.

    Args:
        env: habitat environment with a :class:`~memo_lightning.envs.habitat.simulator.HouseSim`.
    """

    def __init__(self, env: habitat.Env) -> None:
        self._env = env
        self._can_tilt = "look_up" in env.task.actions

    @property
    def _sim(self) -> HouseSim:
        return self._env.sim

    def reset(self) -> None:
        """Choose the instance with the shortest path; call this after the environment's reset."""
        sim, navigator = self._sim, self._sim.navigator
        instances = sim.placement.instances(self._env.current_episode.object_category)
        x, z = sim.pose.x, sim.pose.z
        self._target: PlacedObject = min(instances, key=lambda placed: navigator.field([placed.goal]).distance(x, z))
        self._to_goal: DistanceField = navigator.field([self._target.goal])
        self._to_view: DistanceField = navigator.field([(self._target.view.x, self._target.view.z)])

    def act(self, observations: Any) -> int:
        """Return the next action: along the path, turning to face the object, or stop."""
        pose = self._sim.pose
        if self._to_goal.distance(pose.x, pose.z) < _STOP_DISTANCE:
            x, y, z = self._target.position
            # The middle of most objects is about this far above their bottom.
            look = look_at(pose.x, pose.z, (x, y + 0.12, z), REFERENCE_CAMERA.eye_height)
            if not self._can_tilt:
                look = replace(look, pitch=pose.pitch)
            if self._sees_target(look):
                return self._face(look.heading, look.pitch, then=HabitatSimActions.stop)
        return self._face(self._best_heading(), 0.0, then=HabitatSimActions.move_forward)

    def _sees_target(self, pose: Pose) -> bool:
        n_pixels = self._sim.view_from(pose).count_pixels(REFERENCE_CAMERA, self._target.instance)
        return n_pixels >= self._env.task.success_pixels

    def _best_heading(self) -> float:
        """Return the heading whose next step brings the agent nearest to the point from which the object is seen."""
        pose = self._sim.pose
        here = self._to_view.distance(pose.x, pose.z)

        def cost(heading: float, n_steps: int) -> float:
            turns = min((heading - pose.heading) % 360, (pose.heading - heading) % 360)
            return self._distance_after(replace(pose, heading=heading), n_steps) + _TURN_COST * turns

        best = min(HEADINGS, key=lambda heading: cost(heading, 1))
        if cost(best, 1) > here - _LEAST_PROGRESS:
            # Just before a corner every single step may lead away: look one step further.
            best = min(HEADINGS, key=lambda heading: cost(heading, 2))
        return best

    def _distance_after(self, pose: Pose, n_steps: int) -> float:
        """Return the least distance left after ``n_steps`` steps, the first of them straight ahead."""
        x, z, _ = self._sim.navigator.move(pose.x, pose.z, *pose.ahead(self._sim.forward_step))
        if n_steps == 1:
            return self._to_view.distance(x, z)
        return min(self._distance_after(replace(pose, x=x, z=z, heading=heading), n_steps - 1) for heading in HEADINGS)

    def _face(self, heading: float, pitch: float, then: int) -> int:
        """Return the action that turns or tilts towards a direction, or ``then`` if the agent already faces it."""
        pose = self._sim.pose
        to_the_left = (heading - pose.heading) % 360
        if to_the_left:
            return HabitatSimActions.turn_left if to_the_left <= 180 else HabitatSimActions.turn_right
        if self._can_tilt and pose.pitch != pitch:
            return HabitatSimActions.look_up if pitch > pose.pitch else HabitatSimActions.look_down
        return then
