"""Trials of habitat-lab with the compact observations that a policy reads."""

from __future__ import annotations

from typing import Any

import gymnasium

from memo_lightning.envs.habitat.trial import HabitatTrials
from memo_lightning.envs.object_navigation.observations import CompactForm
from memo_lightning.houses.columns import MAX_RANGE


class CompactObservations(gymnasium.Wrapper):
    """Wrapper that puts observations into the form of :mod:`memo_lightning.envs.object_navigation.observations`.

    Args:
        env: the trial.
        object_range: metres within which the columns report objects.

    Raises:
        UserError: if ``object_range`` is outside the range that the columns measure.
    """

    def __init__(self, env: HabitatTrials, object_range: float = MAX_RANGE) -> None:
        super().__init__(env)
        self._form = CompactForm(env.episode_steps, object_range)
        shapes = {name: tuple(space.shape or ()) for name, space in env.observation_spaces.items()}
        self.observation_space = self._form.space(shapes, env.n_actions)

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin a trial."""
        observation, info = self.env.reset(**kwargs)
        return self._form.rewrite(observation, 0, 0), info

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Take a step of the trial."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        previous, elapsed = (0, 0) if info["episode_end"] else (int(action) + 1, info["episode_length"])
        return self._form.rewrite(observation, previous, elapsed), float(reward), terminated, truncated, info
