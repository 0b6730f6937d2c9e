"""Dark-Key-To-Door: find an unseen key, then an unseen door, again and again (Laskin et al. 2022)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memo_lightning.envs.drawing import AGENT, DARK, ORANGE, Shape, draw_grid
from memo_lightning.envs.random_streams import combine, draw_below
from memo_lightning.envs.room import Room
from memo_lightning.errors import require

_KEY, _HELD_KEY = Shape("key (in hand: on the agent)", ORANGE, 0.4), Shape("key", ORANGE, 0.3)
_DOOR = Shape("door", DARK)
_STAY = 0  # in MOVES
_LATER_LAYOUTS = 3  # random stream for the layouts after a trial's first


class DarkKeyToDoor(Room):
    """A square room with an invisible key and an invisible door, which stay in place for a whole trial.

    Stepping on the key for the first time in an episode earns 1; stepping on the door with the key earns 1 and ends
    the episode. Every episode begins in the middle of the room. An agent that remembers where key and door were in
    earlier episodes collects more in later ones. A task is the pair of cells of key and door, which always differ.
    There are ``room_size ** 2 * (room_size ** 2 - 1)`` tasks, split by hash into training and held-out ones.

    With ``layouts_per_trial=K``, key and door move K - 1 times within a trial, unannounced. Each of K equal parts of
    the trial has its own layout, drawn from the tasks of the split and used by the episodes that begin in that part.
    What was remembered must then be overridden.

    Observation: row and column of the agent (one-hot each), whether it holds the key, and the elapsed fraction of the
    episode; in a lit room also row and column of key and door (one-hot each).

    Args:
        room_size: cells along one side.
        layouts_per_trial: K, at most ``trial_length``.
        reset_costs_a_step: whether the agent stays in the middle of the room in the first step of every episode,
            whatever its action, as if a call of ``reset`` counted as a step.
        lit: whether key and door are observed.
        split: the tasks to draw from: ``"train"``, ``"held_out"`` or ``"all"``.
        n_envs, episode_length, trial_length, seed, device: see :class:`TrialEnv`.

    Raises:
        UserError: if a setting is out of range.
    """

    legend: ClassVar[tuple[Shape, ...]] = (AGENT, _KEY, _DOOR)

    def __init__(
        self,
        *,
        n_envs: int,
        room_size: int = 9,
        episode_length: int = 50,
        trial_length: int = 500,
        layouts_per_trial: int = 1,
        reset_costs_a_step: bool = False,
        lit: bool = False,
        split: str = "train",
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        require(
            1 <= layouts_per_trial <= max(1, trial_length),
            "env.layouts_per_trial",
            layouts_per_trial,
            f"at least 1 and at most env.trial_length={trial_length}",
        )
        self.layouts_per_trial, self.reset_costs_a_step = layouts_per_trial, reset_costs_a_step
        self._key = torch.zeros(n_envs, 2, dtype=torch.int64, device=device)
        self._door = torch.zeros_like(self._key)
        self._has_key = torch.zeros(n_envs, dtype=torch.bool, device=device)
        super().__init__(
            n_envs=n_envs,
            room_size=room_size,
            n_tasks=room_size**2 * (room_size**2 - 1),
            n_landmarks=2,
            n_status=self._n_status,
            episode_length=episode_length,
            trial_length=trial_length,
            lit=lit,
            split=split,
            seed=seed,
            device=device,
        )

    @property
    def _n_status(self) -> int:
        """Number of values that :meth:`_status` returns."""
        return 1

    @property
    def key(self) -> Tensor:
        """Row and column of every environment's key, int64 ``[n_envs, 2]``."""
        return self._key

    @property
    def door(self) -> Tensor:
        """Row and column of every environment's door, int64 ``[n_envs, 2]``."""
        return self._door

    def image(self, index: int = 0) -> NDArray[np.uint8]:
        """Draw a room; see :attr:`legend`."""
        agent = self._position[index].tolist()
        holds = bool(self._has_key[index])
        key = (agent, _HELD_KEY) if holds else (self._key[index].tolist(), _KEY)
        marks = [(self._door[index].tolist(), _DOOR), (agent, AGENT), key]
        return draw_grid(self.room_size, self.room_size, marks)

    def _stream(self, number: int) -> Tensor:
        """Return the keys ``[N]`` of each environment's stream ``number``; tasks are drawn from another one."""
        return combine(self._streams, torch.full_like(self._streams, number))

    def _begin_tasks(self, which: Tensor, tasks: Tensor) -> None:
        n_cells = self.room_size**2
        task = self._tasks[tasks]
        key, door = task // (n_cells - 1), task % (n_cells - 1)
        door = door + (door >= key)  # the door is in any cell but the key's
        self._key = torch.where(which.unsqueeze(-1), self._cell(key), self._key)
        self._door = torch.where(which.unsqueeze(-1), self._cell(door), self._door)

    def _begin_episodes(self, which: Tensor) -> None:
        super()._begin_episodes(which)
        self._has_key.masked_fill_(which, False)
        if self.layouts_per_trial > 1:
            part = (self._trial_step * self.layouts_per_trial // self.trial_length).clamp(
                max=self.layouts_per_trial - 1
            )
            counters = self._trial_index * self.layouts_per_trial + part
            later = draw_below(self._stream(_LATER_LAYOUTS), counters, self._n_tasks)
            self._begin_tasks(which & (part > 0), later)

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor]:
        if self.reset_costs_a_step:
            action = action.masked_fill(self._episode_step == 0, _STAY)
        return super()._advance(action)

    def _arrive(self) -> tuple[Tensor, Tensor]:
        takes_key = (self._position == self._key).all(-1) & ~self._has_key
        self._has_key |= takes_key
        opens_door = (self._position == self._door).all(-1) & self._has_key
        return takes_key.float() + opens_door.float(), opens_door

    def _landmarks(self) -> list[Tensor]:
        return [self._key, self._door]

    def _status(self) -> list[Tensor]:
        return [self._has_key.float()]
