"""Darkroom: find an unseen goal and stay there (Laskin et al. 2022; as in ReLIC, Elawady et al. 2024)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memo_lightning.envs.drawing import AGENT, GREEN, Shape, draw_grid
from memo_lightning.envs.room import Room

_GOAL = Shape("goal (unseen)", GREEN)


class Darkroom(Room):
    """A square room with an invisible goal, which stays in place for a whole trial.

    Every step that ends on the goal earns 1. An episode that reaches the goal at all is a success, and continues. The
    task is the cell of the goal, any but the middle one, where episodes begin. Tasks are split by hash into training
    and held-out ones.

    Observation: row and column of the agent (one-hot each) and the elapsed fraction of the episode; in a lit room also
    row and column of the goal (one-hot each), before the fraction.

    Args:
        room_size: cells along one side.
        lit: whether the goal is observed.
        split: the tasks to draw from: ``"train"``, ``"held_out"`` or ``"all"``.
        n_envs, episode_length, trial_length, seed, device: see :class:`TrialEnv`.

    Raises:
        UserError: if a setting is out of range.
    """

    success_ends_episode: ClassVar[bool] = False
    legend: ClassVar[tuple[Shape, ...]] = (AGENT, _GOAL)

    def __init__(
        self,
        *,
        n_envs: int,
        room_size: int = 9,
        episode_length: int = 20,
        trial_length: int = 200,
        lit: bool = False,
        split: str = "train",
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._goal = torch.zeros(n_envs, 2, dtype=torch.int64, device=device)
        self._found = torch.zeros(n_envs, dtype=torch.bool, device=device)
        super().__init__(
            n_envs=n_envs,
            room_size=room_size,
            n_tasks=room_size**2 - 1,
            n_landmarks=1,
            n_status=0,
            episode_length=episode_length,
            trial_length=trial_length,
            lit=lit,
            split=split,
            seed=seed,
            device=device,
        )

    def image(self, index: int = 0) -> NDArray[np.uint8]:
        """Draw a room; see :attr:`legend`."""
        marks = [(self._goal[index].tolist(), _GOAL), (self._position[index].tolist(), AGENT)]
        return draw_grid(self.room_size, self.room_size, marks)

    def _begin_tasks(self, which: Tensor, tasks: Tensor) -> None:
        cell = self._tasks[tasks]
        middle = self.room_size // 2 * (self.room_size + 1)
        cell = cell + (cell >= middle)
        self._goal = torch.where(which.unsqueeze(-1), self._cell(cell), self._goal)

    def _begin_episodes(self, which: Tensor) -> None:
        super()._begin_episodes(which)
        self._found.masked_fill_(which, False)

    def _arrive(self) -> tuple[Tensor, Tensor]:
        on_goal = (self._position == self._goal).all(-1)
        self._found |= on_goal
        return on_goal.float(), self._found.clone()

    def _landmarks(self) -> list[Tensor]:
        return [self._goal]

    def _status(self) -> list[Tensor]:
        return []
