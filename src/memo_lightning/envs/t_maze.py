"""The passive T-Maze: a cue at the start, a choice after a long corridor (Ni et al. 2023, arXiv 2307.03864)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from memo_lightning.envs.drawing import AGENT, DARK, GREEN, Shape, draw_grid
from memo_lightning.envs.trial_env import SPLITS, TrialEnv
from memo_lightning.errors import require

FORWARD, BACK, UP, DOWN = range(4)
_CUE_UP, _CUE_DOWN, _CORRIDOR, _JUNCTION = range(4)
_DRAWN_CELLS = 24  # at most, of a corridor
_CUE, _WALL = Shape("cue, and the correct end", GREEN), Shape("wall", DARK)


class TMaze(TrialEnv):
    """A corridor whose first cell shows which way to turn at its end; a trial is one episode.

    The last step, at the junction, earns 1 if it goes up or down as the cue said ``trial_length - 1`` steps earlier,
    which is the length of the corridor. An episode lasts exactly as long as it takes to walk the corridor and turn.

    The task tests memory, not exploration. The agent is therefore carried through the corridor, where a step costs
    ``1 / corridor length`` unless it goes forward. With ``carried=False`` the agent walks by itself, under the rule of
    Ni et al.: a step costs the same whenever the agent is behind one that always went forward, and an agent that
    strays once does not reach the junction in time.

    Observation: the agent's place, one-hot: the start with the cue up, the start with the cue down, the corridor, or
    the junction. There are two tasks, one for each cue; both belong to every split.

    Args:
        trial_length: steps of a trial, one more than the length of the corridor.
        carried: whether the agent reaches the junction whatever it does.
        split: ``"train"``, ``"held_out"`` or ``"all"``.
        n_envs, seed, device: see :class:`TrialEnv`.

    Raises:
        UserError: if a setting is out of range.
    """

    legend: ClassVar[tuple[Shape, ...]] = (AGENT, _CUE, _WALL)
    action_names: ClassVar[tuple[str, ...]] = ("forward", "back", "up", "down")

    def __init__(
        self,
        *,
        n_envs: int,
        trial_length: int = 101,
        carried: bool = True,
        split: str = "train",
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        require(trial_length >= 2, "env.trial_length", trial_length, "at least 2")
        require(split in SPLITS, "env.split", split, f"one of {', '.join(SPLITS)}")
        self.corridor_length, self.carried = trial_length - 1, carried
        self._position = torch.zeros(n_envs, dtype=torch.int64, device=device)
        self._cue = torch.zeros_like(self._position)
        super().__init__(
            n_envs=n_envs,
            n_actions=4,
            observation_size=4,
            n_tasks=2,
            episode_length=trial_length,
            trial_length=trial_length,
            seed=seed,
            device=device,
        )

    def image(self, index: int = 0) -> NDArray[np.uint8]:
        """Draw a maze, scaled down if it is long; see :attr:`legend`."""
        last = min(self.corridor_length, _DRAWN_CELLS)
        up = int(self._cue[index]) == 0
        walls = [((r, c), _WALL) for r in (0, 2) for c in range(last)]
        position = round(int(self._position[index]) * last / self.corridor_length)
        marks = [((1, 0), _CUE), ((0 if up else 2, last), _CUE), ((1, position), AGENT)]
        return draw_grid(3, last + 1, [*walls, *marks])

    def _begin_tasks(self, which: Tensor, tasks: Tensor) -> None:
        self._cue = torch.where(which, tasks, self._cue)

    def _begin_episodes(self, which: Tensor) -> None:
        self._position.masked_fill_(which, 0)

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor]:
        at_junction = self._position == self.corridor_length
        success = at_junction & (action - UP == self._cue)
        if self.carried:
            strays = (action != FORWARD) & ~at_junction
            self._position = self._position + 1
        else:
            step = (action == FORWARD).long() - (action == BACK).long()
            self._position = self._position + step * ~at_junction
            strays = (self._position < self._episode_step + 1) & ~at_junction
        self._position = self._position.clamp(0, self.corridor_length)
        return success.float() - strays.float() / self.corridor_length, success

    def _observe(self, episode_time: Tensor) -> Tensor:
        place = torch.where(self._position == 0, self._cue + _CUE_UP, _CORRIDOR)
        place = place.masked_fill(self._position == self.corridor_length, _JUNCTION)
        return one_hot(place, 4).float()
