"""Several environments in one process, stepped one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import gymnasium
import numpy as np
from numpy.typing import NDArray

from memo_lightning.envs.failures import named, within
from memo_lightning.envs.global_streams import GlobalStreams
from memo_lightning.envs.gymnasium.trial_runner import ArrayKey, TrialRules, TrialRunner
from memo_lightning.envs.reports import FINAL_OBSERVATION, MEASURES, SUCCESS, SUCCESS_REPORTED, TRUNCATED
from memo_lightning.envs.trial_env import seed_of_split
from memo_lightning.policies.action import ACTION_MASK, Action
from memo_lightning.policies.encoders import OBSERVATION
from memo_lightning.policies.observation_keys import ObservationKey


@dataclass(frozen=True)
class Plan:
    """Everything needed to make environments, in this or another process.

    Attributes:
        name: name of the environment in messages.
        make: function that makes one environment.
        keys: the parts of the observation that are kept.
        action: how actions are stored, and whether every observation comes with a mask.
        rules: what a trial is.
        makes_trials: whether the environment itself makes trials of several episodes.
        measures: numbers in the ``info`` of every step to report.
    """

    name: str
    make: Callable[[], gymnasium.Env]
    keys: Sequence[ObservationKey]
    action: Action
    rules: TrialRules
    makes_trials: bool = False
    measures: Sequence[str] = ()

    @property
    def truncates(self) -> bool:
        """Whether step limits truncate episodes, so that what would have followed still counts."""
        return not self.rules.time_limit_is_end

    @property
    def decides_success(self) -> bool:
        """Whether the return of an episode decides its success if the environment does not report it."""
        return self.rules.success_return is not None

    @property
    def truncates_within_trials(self) -> bool:
        """Whether an episode can be truncated in the middle of a trial."""
        return self.truncates and (self.makes_trials or self.rules.episodes_per_trial != 1)

    def array_layout(self) -> dict[ArrayKey, tuple[tuple[int, ...], type[np.generic]]]:
        """Return the name, shape per environment and dtype of all inputs and outputs of a step."""
        seen = [OBSERVATION, *([FINAL_OBSERVATION] if self.truncates_within_trials else [])]
        return {
            "action": (self.action.shape, self.action.dtype),
            "reset": ((), np.bool_),
            "reward": ((), np.float32),
            "episode_end": ((), np.bool_),
            "episode_return": ((), np.float32),
            "episode_length": ((), np.int64),
            SUCCESS: ((), np.bool_),
            **({} if self.decides_success else {SUCCESS_REPORTED: ((), np.bool_)}),
            "done": ((), np.bool_),
            "terminated": ((), np.bool_),
            **({"truncated": ((), np.bool_), TRUNCATED: ((), np.bool_)} if self.truncates else {}),
            **({ACTION_MASK: ((sum(self.action.n_values),), np.bool_)} if self.action.masked else {}),
            **{(MEASURES, name): ((), np.float32) for name in self.measures},
            **{(kind, key.name): (key.shape, key.dtype) for kind in seen for key in self.keys},
        }


class Runners:
    """Environments of one process, out of N that share arrays for their inputs and outputs.

    Args:
        plan: how to make the environments.
        indices: their numbers among the N.
        arrays: arrays ``[N, ...]`` by name, as :meth:`Plan.array_layout` says; read and written in place.
        made: the first environment, if it exists already.
        step_timeout: seconds that a step or reset of all of them may take; None if another process enforces it.

    Raises:
        EnvironmentFailure: if an environment raises an error or hangs, here or in any method.
        UserError: if it returns something that does not match its spaces, here or in any method.
    """

    def __init__(
        self,
        plan: Plan,
        indices: Sequence[int],
        arrays: dict[ArrayKey, NDArray],
        made: gymnasium.Env | None = None,
        step_timeout: float | None = None,
    ) -> None:
        self._name, self._arrays, self._step_timeout = plan.name, arrays, step_timeout
        self._streams = GlobalStreams()
        self._runners: list[TrialRunner] = []
        for index in indices:
            with self._named(index):
                env = made if made and not self._runners else plan.make()
            runner = TrialRunner(
                env, index, plan.keys, plan.action, plan.rules, plan.measures, plan.makes_trials, arrays
            )
            self._runners.append(runner)
        self._indices = list(indices)

    def seed(self, seed: int) -> None:
        """Restart all random streams; the global ones differ between processes."""
        first = min(self._indices, default=0)
        self._streams.seed(seed if first == 0 else seed_of_split((seed, first), "all"))
        for runner in self._runners:
            runner.seed(seed)

    def reset(self) -> None:
        """Begin a new trial where ``arrays["reset"]`` is true."""
        with self._stepping():
            for index, runner in zip(self._indices, self._runners, strict=True):
                if self._arrays["reset"][index]:
                    with self._named(index):
                        runner.reset()

    def step(self) -> None:
        """Apply ``arrays["action"]``."""
        with self._stepping():
            for index, runner in zip(self._indices, self._runners, strict=True):
                with self._named(index):
                    runner.step()

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return an image of an environment, uint8 ``[H, W, 3]``."""
        with self._named(index):
            return self._runners[self._indices.index(index)].image()

    def watch(self) -> None:
        """Keep an image of the end of every episode from now on."""
        for runner in self._runners:
            runner.watch()

    def last_image(self, index: int) -> NDArray[np.uint8] | None:
        """Return an image of the end of an environment's latest episode; None if there is none."""
        return self._runners[self._indices.index(index)].last_image

    def close(self) -> None:
        """Close the environments."""
        for index, runner in zip(self._indices, self._runners, strict=True):
            with self._named(index):
                runner.env.close()
        self._runners, self._indices = [], []

    def _named(self, index: int) -> AbstractContextManager[None]:
        return named(f"environment {index} ({self._name})")

    @contextmanager
    def _stepping(self) -> Iterator[None]:
        """Step or reset within the time limit, with the environments' own global random numbers."""
        in_time = (
            nullcontext() if self._step_timeout is None else within(self._step_timeout, f"environment {self._name}")
        )
        with in_time, self._streams.in_use():
            yield
