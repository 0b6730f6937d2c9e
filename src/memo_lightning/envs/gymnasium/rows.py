"""Several rows in one process, stepped one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import gymnasium
import numpy as np
from numpy.typing import NDArray

from memo_lightning.envs.failures import named, within
from memo_lightning.envs.gymnasium.spaces import Action, Entry
from memo_lightning.envs.gymnasium.trial_row import TrialRow, TrialRules


@dataclass(frozen=True)
class Plan:
    """What it takes to make rows, here or in another process.

    Attributes:
        name: what the environment is called in messages.
        make: makes the environment of one row.
        entries: what of the observation is kept.
        action: how actions are stored.
        rules: what a trial is.
        measures: numbers in the ``info`` of every step that are reported.
    """

    name: str
    make: Callable[[], gymnasium.Env]
    entries: Sequence[Entry]
    action: Action
    rules: TrialRules
    measures: Sequence[str] = ()

    def array_layout(self) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """Return name, shape of one row, and dtype of everything that goes in and out of a step."""
        return {
            "action": (self.action.shape, self.action.dtype),
            "reset": ((), np.bool_),
            "reward": ((), np.float32),
            "episode_end": ((), np.bool_),
            "episode_return": ((), np.float32),
            "episode_length": ((), np.int64),
            "success": ((), np.bool_),
            "done": ((), np.bool_),
            **dict.fromkeys(self.measures, ((), np.float32)),
            **{entry.name: (entry.shape, entry.dtype) for entry in self.entries},
        }


class Rows:
    """The rows ``indices`` of the arrays.

    Args:
        plan: how to make them.
        indices: their numbers.
        arrays: by name ``[N, ...]``, as :meth:`Plan.array_layout` says; read and written in place.
        made: the environment of the first row, if there is one already.
        step_timeout: seconds that a step or reset of all rows may take; None where another process looks after that.

    Raises:
        EnvironmentFailure: if an environment raises something or hangs; the same in all methods.
        UserError: if it returns something else than its spaces say; the same in all methods.
    """

    def __init__(
        self,
        plan: Plan,
        indices: Sequence[int],
        arrays: dict[str, NDArray],
        made: gymnasium.Env | None = None,
        step_timeout: float | None = None,
    ) -> None:
        self._name, self._arrays, self._step_timeout = plan.name, arrays, step_timeout
        self._rows: list[TrialRow] = []
        for index in indices:
            with self._named(index):
                env = made if made and not self._rows else plan.make()
            self._rows.append(TrialRow(env, index, plan.entries, plan.action, plan.rules, plan.measures, arrays))
        self._indices = list(indices)

    def seed(self, seed: int) -> None:
        """Begin all random streams anew."""
        for row in self._rows:
            row.seed(seed)

    def reset(self) -> None:
        """Begin a new trial in the rows where ``arrays["reset"]`` is true."""
        with self._in_time():
            for index, row in zip(self._indices, self._rows, strict=True):
                if self._arrays["reset"][index]:
                    with self._named(index):
                        row.reset()

    def step(self) -> None:
        """Apply ``arrays["action"]``."""
        with self._in_time():
            for index, row in zip(self._indices, self._rows, strict=True):
                with self._named(index):
                    row.step()

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Return what a row looks like, uint8 ``[H, W, 3]``."""
        with self._named(index):
            return self._rows[self._indices.index(index)].picture()

    def watch(self) -> None:
        """Keep a picture of how every episode ends from now on."""
        for row in self._rows:
            row.watch()

    def last_picture(self, index: int) -> NDArray[np.uint8] | None:
        """Return what a row looked like when its latest episode had ended; None where that cannot be told."""
        return self._rows[self._indices.index(index)].last_picture

    def close(self) -> None:
        """Close the environments; there are no rows afterwards."""
        for index, row in zip(self._indices, self._rows, strict=True):
            with self._named(index):
                row.env.close()
        self._rows, self._indices = [], []

    def _named(self, index: int) -> AbstractContextManager[None]:
        return named(f"environment {self._name}, row {index}")

    def _in_time(self) -> AbstractContextManager[None]:
        return nullcontext() if self._step_timeout is None else within(self._step_timeout, f"environment {self._name}")
