"""One row: a Gymnasium environment whose episodes are put together to trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from numpy.typing import NDArray

from memo_lightning.envs.gymnasium.spaces import Action, Entry
from memo_lightning.envs.trial_env import SPLITS
from memo_lightning.errors import UserError, require

SameTask = Literal["none", "seed", "option"]


@dataclass(frozen=True)
class TrialRules:
    """What a trial is, for environments that know only episodes.

    Attributes:
        trial_length: steps after which a trial ends.
        episodes_per_trial: episodes after which a trial ends; None for as many as fit.
        same_task: how the episodes of a trial keep their task. ``seed``: they are reset with the same seed;
            ``option``: ``reset(options={"new_task": False})`` asks the environment for it; ``none``: they are
            different, and only the memory goes on.
        success_return: return from which on an episode is a success, where the environment does not say.
        split: which seeds episodes are reset with: those for training, those held out, or all.

    Raises:
        UserError: if a value is not allowed.
    """

    trial_length: int
    episodes_per_trial: int | None = None
    same_task: SameTask = "none"
    success_return: float | None = None
    split: str = "train"

    def __post_init__(self) -> None:
        length, episodes, kinds = self.trial_length, self.episodes_per_trial, get_args(SameTask)
        require(isinstance(length, int) and length >= 1, "env.trial_length", length, "at least 1")
        require(episodes is None or episodes >= 1, "env.episodes_per_trial", episodes, "at least 1, or null")
        require(self.same_task in kinds, "env.same_task", self.same_task, f"one of {', '.join(kinds)}")
        require(self.split in SPLITS, "env.split", self.split, f"one of {', '.join(SPLITS)}")


class TrialRow:
    """Runs the trials of one row, and writes what comes of each step into the row of arrays.

    The contract is that of :class:`~memo_lightning.envs.trial_env.TrialEnv`: an episode that ends is followed by
    the next in the same step, and only the end of a trial is ``done``. Every episode is reset with a seed made
    from the row's seed, its index, the trial and the episode, so it depends on nothing beside it.

    An environment that makes trials itself says so with ``episode_end`` in the ``info`` of its reset and of every
    step; then ``terminated`` and ``truncated`` end the trial. ``info`` may also hold ``success`` (or
    ``is_success``). Where it has a method ``watch()``, it keeps ``last_picture`` of every episode after that is called.

    Args:
        env: the environment.
        index: number of the row.
        entries: what of the observation is kept.
        action: how actions are stored.
        rules: what a trial is.
        measures: numbers in ``info`` that are reported.
        arrays: by name ``[N, ...]``, the entries, the measures and ``reward, episode_end, episode_return,
            episode_length, success, done``.

    Attributes:
        last_picture: what the row looked like when its latest episode had ended, uint8 ``[H, W, 3]``, if it is
            watched; None where that cannot be told.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        index: int,
        entries: Sequence[Entry],
        action: Action,
        rules: TrialRules,
        measures: Sequence[str],
        arrays: dict[str, NDArray],
    ) -> None:
        self.env = env
        self._entries, self._action, self._rules, self._measures = entries, action, rules, measures
        self._index, self._arrays = index, arrays
        self._seed, self._trial = 0, -1
        self._watched = False
        self.last_picture: NDArray[np.uint8] | None = None

    def picture(self) -> NDArray[np.uint8]:
        """Return what the row looks like, uint8 ``[H, W, 3]``."""
        return np.asarray(self.env.render())

    def watch(self) -> None:
        """Keep a picture of how every episode ends from now on."""
        self._watched = True
        if hasattr(self.env.unwrapped, "watch"):
            self.env.unwrapped.watch()

    def seed(self, seed: int) -> None:
        """Begin the row's random stream anew; the next :meth:`reset` is its first trial."""
        self._seed, self._trial = seed, -1

    def reset(self) -> None:
        """Begin a trial with a new task."""
        self._trial += 1
        self._trial_step, self._episode = 0, -1
        observation, info = self._begin_episode()
        self._makes_trials = "episode_end" in info
        self._report(reward=0.0, episode_end=False, success=False, done=False, **self._measured(info))
        self._observe(observation)

    def step(self) -> None:
        """Apply the row's action.

        Raises:
            UserError: if the environment returns something else than its spaces say.
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
        episode_end = done = bool(terminated or truncated)
        if self._makes_trials:
            episode_end = bool(info["episode_end"])
        else:
            done = done and self._episode + 1 == self._rules.episodes_per_trial
        done = done or self._trial_step >= self._rules.trial_length
        success = episode_end and self._is_success(info)
        self._report(reward=reward, episode_end=episode_end, success=success, done=done, **self._measured(info))
        if episode_end and self._watched:
            of_trials = getattr(self.env.unwrapped, "last_picture", None)  # there the next episode has begun already
            self.last_picture = of_trials if self._makes_trials else self.picture()
        if episode_end and not done:
            if self._makes_trials:
                self._count_episode()
            else:
                observation, _ = self._begin_episode()
        self._observe(observation)

    def _begin_episode(self) -> tuple[Any, dict[str, Any]]:
        self._count_episode()
        options = {"new_task": self._episode == 0} if self._rules.same_task == "option" else None
        return self.env.reset(seed=self._episode_seed(), options=options)

    def _count_episode(self) -> None:
        self._episode += 1
        self._episode_step, self._episode_return = 0, 0.0

    def _episode_seed(self) -> int:
        """Return a seed below 2 ** 31: even ones for training, odd ones held out."""
        episode = 0 if self._rules.same_task == "seed" else self._episode
        sequence = np.random.SeedSequence((self._seed, self._index, self._trial, episode))
        draw = int(sequence.generate_state(1)[0]) >> 1
        return draw if self._rules.split == "all" else draw & ~1 | (self._rules.split == "held_out")

    def _is_success(self, info: dict[str, Any]) -> bool:
        reported = info.get("success", info.get("is_success"))
        if reported is not None:
            return bool(reported)
        threshold = self._rules.success_return
        return threshold is not None and self._episode_return >= threshold

    def _measured(self, info: dict[str, Any]) -> dict[str, float]:
        return {name: float(info[name]) for name in self._measures}

    def _report(self, **values: float) -> None:
        values |= {"episode_return": self._episode_return, "episode_length": self._episode_step}
        for name, value in values.items():
            self._arrays[name][self._index] = value

    def _observe(self, observation: Any) -> None:
        for entry in self._entries:
            self._arrays[entry.name][self._index] = entry.read(observation)
