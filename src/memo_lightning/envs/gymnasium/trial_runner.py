"""One Gymnasium environment whose episodes are grouped into trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from numpy.typing import NDArray

from memo_lightning.envs.reports import FINAL_OBSERVATION, MEASURES, TRUNCATED
from memo_lightning.envs.trial_env import SPLITS, seed_of_split
from memo_lightning.errors import UserError, require
from memo_lightning.policies.action import ACTION_MASK, Action
from memo_lightning.policies.encoders import OBSERVATION
from memo_lightning.policies.observation_keys import ObservationKey

SameTask = Literal["none", "seed", "option"]
ArrayKey = str | tuple[str, str]
"""Name of an array that environments write into; a pair where a part of it is the user's."""


@dataclass(frozen=True)
class TrialRules:
    """Definition of a trial for environments that know only episodes.

    Attributes:
        trial_length: steps after which a trial ends.
        episodes_per_trial: episodes after which a trial ends; None for as many as fit.
        same_task: how the episodes of a trial share a task. ``seed``: they are reset with the same seed;
            ``option``: ``reset(options={"new_task": False})`` asks the environment to keep it; ``none``: tasks differ,
            and only the memory carries over.
        success_return: least return of a successful episode, if the environment does not report success.
        split: which seeds episodes are reset with: those for training, those held out, or all.
        time_limit_is_end: whether a step limit truly ends an episode, e.g. because the remaining time is observed and
            part of the task. Otherwise the episode is ``truncated``: what would have followed still counts.

    Raises:
        UserError: if a value is not allowed.
    """

    trial_length: int
    episodes_per_trial: int | None = None
    same_task: SameTask = "none"
    success_return: float | None = None
    split: str = "train"
    time_limit_is_end: bool = False

    def __post_init__(self) -> None:
        length, episodes, kinds = self.trial_length, self.episodes_per_trial, get_args(SameTask)
        require(isinstance(length, int) and length >= 1, "env.trial_length", length, "at least 1")
        require(episodes is None or episodes >= 1, "env.episodes_per_trial", episodes, "at least 1, or null")
        require(self.same_task in kinds, "env.same_task", self.same_task, f"one of {', '.join(kinds)}")
        require(
            self.same_task == "none" or episodes != 1,
            "env.same_task",
            self.same_task,
            "none if a trial has one episode; add env.episodes_per_trial=null for as many episodes as fit",
        )
        success = self.success_return
        is_number = isinstance(success, int | float) and not isinstance(success, bool)
        require(success is None or is_number, "env.success_return", success, "a number, or null")
        require(self.split in SPLITS, "env.split", self.split, f"one of {', '.join(SPLITS)}")

    def reset_options(self, *, new_task: bool) -> dict[str, Any] | None:
        """Return the ``options`` to reset an episode with."""
        return {"new_task": new_task} if self.same_task == "option" else None


class TrialRunner:
    """Runner of one environment's trials, which writes the results of each step to its place in the arrays.

    The contract is that of :class:`~memo_lightning.envs.trial_env.TrialEnv`: when an episode ends, the next one begins
    in the same step, and only the end of a trial is ``done``. Every episode is reset with a seed made from the
    environments' seed, the index, the trial and the episode, so it depends on nothing else.

    An episode that is ``truncated``, or that the end of the trial cuts off, is reported as ``episode_truncated``; if
    the next one begins in the same step, its last observation is kept as the final observation.

    An environment that makes trials itself says so with ``episode_end`` in the ``info`` of its reset and of every
    step; then ``terminated`` and ``truncated`` end the trial. If it cuts off an episode within a trial, ``info`` must
    hold ``episode_truncated`` and, as ``final_obs``, the episode's last observation. ``info`` may also hold
    ``success`` (or ``is_success``) and ``action_mask``. If the environment has a method ``watch()``, it keeps
    ``last_image`` of every episode once that has been called.

    Args:
        env: the environment.
        index: number of the environment.
        keys: the parts of the observation that are kept.
        action: how actions are stored, and whether every observation comes with a mask.
        rules: what a trial is.
        measures: numbers in ``info`` to report.
        makes_trials: whether the environment itself makes trials of several episodes.
        arrays: arrays to read the action from and write results to, ``[N, ...]`` each.

    Attributes:
        last_image: image of the end of the latest episode, uint8 ``[H, W, 3]``, if the environment is watched; None if
            there is none.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        index: int,
        keys: Sequence[ObservationKey],
        action: Action,
        rules: TrialRules,
        measures: Sequence[str],
        makes_trials: bool,
        arrays: dict[ArrayKey, NDArray],
    ) -> None:
        self.env = env
        self._keys, self._action, self._rules, self._measures = keys, action, rules, measures
        self._index, self._arrays, self._makes_trials = index, arrays, makes_trials
        self._seed, self._trial = 0, -1
        self._watched = self._has_final = False
        self.last_image: NDArray[np.uint8] | None = None

    def image(self) -> NDArray[np.uint8]:
        """Return an image of the environment, uint8 ``[H, W, 3]``."""
        return np.asarray(self.env.render())

    def watch(self) -> None:
        """Keep an image of the end of every episode from now on."""
        self._watched = True
        if hasattr(self.env.unwrapped, "watch"):
            self.env.unwrapped.watch()

    def seed(self, seed: int) -> None:
        """Restart the random stream; the next :meth:`reset` begins its first trial."""
        self._seed, self._trial = seed, -1

    def reset(self) -> None:
        """Begin a trial with a new task."""
        self._trial += 1
        self._trial_step, self._episode = 0, -1
        observation, info = self._begin_episode()
        self._report(
            info,
            reward=0.0,
            episode_end=False,
            success=False,
            success_reported=False,
            done=False,
            terminated=False,
            truncated=False,
        )
        self._write(TRUNCATED, False)
        self._drop_final_observation()
        self._observe(OBSERVATION, observation)
        self._mask(observation, info, is_over=False)

    def step(self) -> None:
        """Apply the action.

        Raises:
            UserError: if the environment returns something that does not match its spaces.
        """
        action = self._action.to_env(self._arrays["action"][self._index])
        observation, reward, terminated, truncated, info = self.env.step(action)
        try:
            reward = float(reward)
        except (TypeError, ValueError):
            raise UserError(f"the reward is {reward!r}; must be a number") from None
        self._trial_step += 1
        self._episode_step += 1
        self._episode_return += reward
        episode_end, done, cut_off = self._ends(bool(terminated), bool(truncated), info)
        self._report(
            info,
            reward=reward,
            episode_end=episode_end,
            success=episode_end and self._is_success(info),
            success_reported=episode_end and _said_success(info) is not None,
            done=done,
            terminated=done and not cut_off,
            truncated=done and cut_off,
        )
        self._write(TRUNCATED, cut_off)
        self._drop_final_observation()
        if episode_end and self._watched:
            of_trials = getattr(self.env.unwrapped, "last_image", None)  # its next episode has begun already
            self.last_image = of_trials if self._makes_trials else self.image()
        if episode_end and not done:
            if cut_off:
                self._observe(FINAL_OBSERVATION, self._final_observation(observation, info))
                self._has_final = True
            if self._makes_trials:
                self._count_episode()
            else:
                observation, info = self._begin_episode()
        self._observe(OBSERVATION, observation)
        self._mask(observation, info, is_over=done)

    def _ends(self, terminated: bool, truncated: bool, info: dict[str, Any]) -> tuple[bool, bool, bool]:
        """Return whether the episode ends, whether the trial ends, and whether a limit cuts the episode off."""
        at_limit = self._trial_step >= self._rules.trial_length
        over = terminated or truncated
        if self._makes_trials:
            episode_end, done = bool(info["episode_end"]), over or at_limit
            cut_off = bool(info.get(TRUNCATED, False)) if episode_end else done and not terminated
        else:
            episode_end = over
            done = at_limit or (over and self._episode + 1 == self._rules.episodes_per_trial)
            cut_off = (truncated or at_limit) and not terminated
        return episode_end, done, cut_off and not self._rules.time_limit_is_end

    def _final_observation(self, observation: Any, info: dict[str, Any]) -> Any:
        """Return the last observation of an episode that was cut off within a trial."""
        if not self._makes_trials:
            return observation
        if "final_obs" not in info:
            raise UserError(
                f"info has {TRUNCATED} but no final_obs (the last observation of the episode); must have both"
            )
        return info["final_obs"]

    def _drop_final_observation(self) -> None:
        """Zero the final observation of an earlier step: a step must not depend on anything before its trial."""
        if self._has_final:
            for key in self._keys:
                self._write((FINAL_OBSERVATION, key.name), 0)
            self._has_final = False

    def _begin_episode(self) -> tuple[Any, dict[str, Any]]:
        self._count_episode()
        options = self._rules.reset_options(new_task=self._episode == 0)
        return self.env.reset(seed=self._episode_seed(), options=options)

    def _count_episode(self) -> None:
        self._episode += 1
        self._episode_step, self._episode_return = 0, 0.0

    def _episode_seed(self) -> int:
        episode = 0 if self._rules.same_task == "seed" else self._episode
        return seed_of_split((self._seed, self._index, self._trial, episode), self._rules.split)

    def _is_success(self, info: dict[str, Any]) -> bool:
        reported = _said_success(info)
        if reported is not None:
            return bool(reported)
        threshold = self._rules.success_return
        return threshold is not None and self._episode_return >= threshold

    def _report(self, info: dict[str, Any], **values: float) -> None:
        values |= {"episode_return": self._episode_return, "episode_length": self._episode_step}
        for name, value in values.items():
            self._write(name, value)
        for name in self._measures:
            self._write((MEASURES, name), float(info[name]))

    def _observe(self, kind: str, observation: Any) -> None:
        for key in self._keys:
            self._write((kind, key.name), key.read(observation))

    def _mask(self, observation: Any, info: dict[str, Any], *, is_over: bool) -> None:
        if not self._action.masked:
            return
        mask = info.get(ACTION_MASK)
        if mask is None and isinstance(observation, dict):
            mask = observation.get(ACTION_MASK)
        if mask is None:
            raise UserError(f"no action_mask at step {self._trial_step}; the first reset had one")
        if is_over and not np.any(mask):  # no action follows
            mask = np.ones_like(mask)
        try:
            self._write(ACTION_MASK, self._action.read_mask(mask))
        except UserError as error:
            raise UserError(f"step {self._trial_step} of the trial: {error}") from None

    def _write(self, name: ArrayKey, value: Any) -> None:
        if name in self._arrays:
            self._arrays[name][self._index] = value


def _said_success(info: dict[str, Any]) -> Any:
    """Return the success that ``info`` reports; None if it reports none."""
    return info.get("success", info.get("is_success"))
