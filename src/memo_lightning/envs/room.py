"""Square rooms with invisible landmarks to find."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from memo_lightning.envs.trial_env import TrialEnv, select_tasks
from memo_lightning.errors import require

# Row and column offsets of the actions: stay, up, down, left, right.
MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


class Room(TrialEnv):
    """A room with invisible landmarks that stay in place for a whole trial; episodes begin in its middle.

    Observation: row and column of the agent (one-hot each), the values of :meth:`_status`, and the elapsed fraction of
    the episode; in a lit room also row and column of the landmarks (one-hot each), before the status.

    Subclasses implement :meth:`_begin_tasks`, :meth:`_arrive`, :meth:`_landmarks` and :meth:`_status`, and extend
    :meth:`_begin_episodes`.

    Args:
        room_size: cells along one side.
        n_tasks: total number of tasks, before the split.
        n_landmarks: number of landmarks.
        n_status: number of values that :meth:`_status` returns.
        lit: whether the landmarks are observed.
        split: the tasks to draw from: ``"train"``, ``"held_out"`` or ``"all"``.
        n_envs, episode_length, trial_length, seed, device: see :class:`TrialEnv`.

    Raises:
        UserError: if a setting is out of range.
    """

    action_names: ClassVar[tuple[str, ...]] = ("stay", "up", "down", "left", "right")

    def __init__(
        self,
        *,
        n_envs: int,
        room_size: int,
        n_tasks: int,
        n_landmarks: int,
        n_status: int,
        episode_length: int,
        trial_length: int,
        lit: bool,
        split: str,
        seed: int,
        device: torch.device | str,
    ) -> None:
        require(room_size >= 2, "env.room_size", room_size, "at least 2")
        self.room_size, self.lit = room_size, lit
        device = torch.device(device)
        self._tasks = select_tasks(n_tasks, split, device)
        self._moves = torch.tensor(MOVES, device=device)
        self._position = torch.full((n_envs, 2), room_size // 2, device=device)
        super().__init__(
            n_envs=n_envs,
            n_actions=len(MOVES),
            observation_size=2 * room_size * (1 + n_landmarks * lit) + n_status + 1,
            n_tasks=len(self._tasks),
            episode_length=episode_length,
            trial_length=trial_length,
            seed=seed,
            device=device,
        )

    @abstractmethod
    def _arrive(self) -> tuple[Tensor, Tensor]:
        """Return rewards ``[N]`` and successes, bool ``[N]``, for the agents' current positions."""

    @abstractmethod
    def _landmarks(self) -> list[Tensor]:
        """Return the cells ``[N, 2]`` of the landmarks."""

    @abstractmethod
    def _status(self) -> list[Tensor]:
        """Return further observations, each ``[N]``."""

    def _begin_episodes(self, which: Tensor) -> None:
        self._position.masked_fill_(which.unsqueeze(-1), self.room_size // 2)

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor]:
        self._position = (self._position + self._moves[action]).clamp(0, self.room_size - 1)
        return self._arrive()

    def _observe(self, episode_time: Tensor) -> Tensor:
        seen = [self._position, *self._landmarks()] if self.lit else [self._position]
        cells = one_hot(torch.cat(seen, -1), self.room_size).flatten(1)
        return torch.cat([cells, torch.stack([*self._status(), episode_time], -1)], -1)

    def _cell(self, index: Tensor) -> Tensor:
        return torch.stack([index // self.room_size, index % self.room_size], -1)
