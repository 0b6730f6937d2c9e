"""Trials of ExtObjNav as a Gymnasium environment: many episodes in one house with one placement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import habitat
import numpy as np
from gym import spaces as gym_spaces

from memo_lightning.envs.habitat.config import make_config
from memo_lightning.envs.habitat.dataset import ExtObjNavDataset
from memo_lightning.envs.object_navigation.settings import PositionFrame, SensorName, SimulatorName
from memo_lightning.errors import require

_MEASURES = ("success", "spl", "soft_spl", "distance_to_goal")


class HabitatTrials(gymnasium.Env):
    """Trials of object navigation: sequences of episodes in the same house with the same objects.

    When an episode ends, the next one begins in the same step: the observation that comes with the last reward is
    already the first of the next episode. Only the end of a trial, after ``trial_steps`` steps, is ``truncated``; the
    reset that follows draws a new placement. An episode that the end of the trial cuts off does not count as ended.

    Observations are a dictionary: ``goal`` (one-hot), ``position`` (in a frame that stays the same during the trial)
    and the observations of the chosen sensors. Every ``info`` holds ``episode_end`` and, for the episode that the step
    belongs to, ``success``, ``spl``, ``soft_spl``, ``distance_to_goal``, ``episode_return``, ``episode_length``,
    ``episode_index`` in the trial, ``goal`` (its name) and ``scene_id``.

    Args:
        trial_steps: steps of a trial.
        episode_steps: steps after which an episode ends without success.
        sensors: what to observe: ``rgb``, ``depth``, ``semantic``, ``columns``.
        image_size: side of the images, pixels.
        n_columns: number of columns in the column observation.
        can_tilt: whether the agent has the two actions that tilt its camera.
        split: ``train``, ``held_out_placements`` (in the training houses) or ``held_out`` (other houses).
        data_path: episode file to use instead of generating episodes, or a folder with ``<split>.jsonl.gz``.
        dataset: further arguments of :class:`~memo_lightning.houses.sources.GeneratedSource`, e.g.
            ``{"n_houses": 4, "min_rooms": 2, "max_rooms": 3, "n_types": 6, "n_objects": 8}``.
        seed: seed of the placements that are drawn.
        simulator: ``house_sim``, or ``habitat_sim`` for habitat-sim's own.
        scene_dataset: for ``habitat_sim``: the scene dataset with the scenes of ``data_path``.
        object_folder: for ``habitat_sim``: a folder with object models, if the scene dataset has none.
        position_frame: frame of ``position``: ``trial`` or ``house``.

    Raises:
        UserError: if a value is out of range.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own declaration
    render_mode = "rgb_array"

    def __init__(
        self,
        trial_steps: int = 4096,
        episode_steps: int = 500,
        sensors: Sequence[SensorName] = ("rgb", "depth"),
        image_size: int = 64,
        n_columns: int = 32,
        can_tilt: bool = True,
        split: str = "train",
        data_path: str = "",
        dataset: dict[str, Any] | None = None,
        seed: int = 0,
        simulator: SimulatorName = "house_sim",
        scene_dataset: str = "",
        object_folder: str = "",
        position_frame: PositionFrame = "trial",
    ) -> None:
        require(trial_steps >= 1, "env.trial_length", trial_steps, "at least 1")
        config = make_config(
            sensors, image_size, n_columns, can_tilt, episode_steps, split, data_path, dataset, seed,
            simulator, scene_dataset, object_folder, position_frame,
        )  # fmt: skip
        self.trial_steps, self.episode_steps = trial_steps, episode_steps
        self._dataset = ExtObjNavDataset(config.habitat.dataset)
        self.habitat_env = habitat.Env(config, self._dataset)
        self.observation_spaces: dict[str, gymnasium.Space] = {
            name: _modern(space) for name, space in self.habitat_env.observation_space.spaces.items()
        }
        self.observation_space = gymnasium.spaces.Dict(self.observation_spaces)
        self.action_names = tuple(self.habitat_env.task.actions)
        self.n_actions = len(self.action_names)
        self.action_space = self._actions = gymnasium.spaces.Discrete(self.n_actions)
        self._draws = np.random.default_rng(seed)
        self._placement_index = 0
        self._step = 0
        self._watched = False
        self.last_image: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin a trial with a new placement.

        Args:
            seed: restarts the sequence of placements that are drawn.
            options: ``{"placement": index}`` chooses a placement of the dataset instead.

        Raises:
            UserError: if there is no such placement.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._draws = np.random.default_rng(seed)
        n = self._dataset.n_placements
        index = (options or {}).get("placement")
        if index is None:
            index = int(self._draws.integers(n))
        require(0 <= index < n, "placement", index, f"at least 0 and below {n}")
        self._placement_index, self._step, self._episode_index = index, 0, -1
        observation = self._begin_episode()
        return observation, self._info(episode_end=False)

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Take a step of the trial.

        Raises:
            ValueError: if there is no such action.
        """
        if not self._actions.contains(action):
            raise ValueError(f"action={action!r}: must be an integer in 0..{self._actions.n - 1}")
        observation = dict(self.habitat_env.step(int(action)))
        reward = float(self.habitat_env.get_metrics()["ext_objnav_reward"])
        self._step += 1
        self._episode_length += 1
        self._episode_return += reward
        self._path.append(self._point())
        episode_end = self.habitat_env.episode_over
        info = self._info(episode_end)
        truncated = self._step >= self.trial_steps
        if episode_end and self._watched:
            self.last_image = self.render()
        if episode_end and not truncated:
            observation = self._begin_episode()
        return observation, reward, False, truncated, info

    def render(self) -> np.ndarray:
        """Return an image of the current step, uint8 ``[H, W, 3]``; see :func:`draw_trial`."""
        from memo_lightning.envs.object_navigation.trial_image import draw_trial

        goal = self.habitat_env.current_episode.object_category
        text = f"find: {goal}     episode {self._episode_index + 1}, step {self._episode_length}"
        return draw_trial(self.habitat_env.sim, goal, self._path, text)

    def watch(self) -> None:
        """Keep an image of the end of every episode from now on, as ``last_image``."""
        self._watched = True

    def close(self) -> None:
        """Close the habitat environment."""
        self.habitat_env.close()

    def _begin_episode(self) -> dict[str, np.ndarray]:
        self._episode_index += 1
        self._episode_length, self._episode_return = 0, 0.0
        self.habitat_env.current_episode = self._dataset.episode(self._placement_index, self._episode_index)
        observation = dict(self.habitat_env.reset())
        self._path = [self._point()]
        return observation

    def _point(self) -> tuple[float, float]:
        pose = self.habitat_env.sim.pose
        return pose.x, pose.z

    def _info(self, episode_end: bool) -> dict[str, Any]:
        metrics = self.habitat_env.get_metrics()
        episode = self.habitat_env.current_episode
        return {
            "episode_end": episode_end,
            **{name: float(metrics[name]) for name in _MEASURES},
            "episode_return": self._episode_return,
            "episode_length": self._episode_length,
            "episode_index": self._episode_index,
            "goal": episode.object_category,
            "scene_id": episode.scene_id,
        }


def _modern(space: gym_spaces.Box) -> gymnasium.spaces.Box:
    """Convert a space of the Gym version that habitat-lab uses to Gymnasium.

    The highest value of habitat-lab's semantic sensor is that of another integer type, which wraps around to -1.
    """
    low, high = space.low, space.high
    if np.issubdtype(space.dtype, np.integer):
        high = np.where(high < low, np.iinfo(space.dtype).max, high)
    return gymnasium.spaces.Box(low, high, space.shape, space.dtype.type)
