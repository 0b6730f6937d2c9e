"""Dark-Key-To-Door: find an unseen key, then an unseen door, again and again (Laskin et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from memo_lightning.envs.trial_env import TrialEnv, select_tasks
from memo_lightning.errors import require

# Row and column steps of the actions: stay, up, down, left, right.
MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


class DarkKeyToDoor(TrialEnv):
    """A square room with a key and a door that cannot be seen; they stay where they are for a whole trial.

    Stepping on the key the first time in an episode is worth 1; stepping on the door with the key is worth 1
    and ends the episode. Every episode begins in the middle of the room. Whoever remembers where key and door
    were in earlier episodes collects more in later ones. The task is the pair of cells of key and door, always
    two different ones; ``room_size ** 2 * (room_size ** 2 - 1)`` tasks, split by hash into training and
    held-out ones.

    Observation: row and column of the agent (one-hot each), whether it holds the key, and the fraction of the
    episode that has passed; in a lit room also row and column of key and door (one-hot each).

    Args:
        room_size: cells along one side.
        lit: show key and door.
        split: the tasks to draw from: ``"train"``, ``"held_out"`` or ``"all"``.
        n_envs, episode_length, trial_length, seed, device: see :class:`TrialEnv`.

    Raises:
        UserError: if a setting is out of range.
    """

    def __init__(
        self,
        *,
        n_envs: int,
        room_size: int = 9,
        episode_length: int = 50,
        trial_length: int = 500,
        lit: bool = False,
        split: str = "train",
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        require(room_size >= 2, "env.room_size", room_size, "at least 2")
        self.room_size, self.lit = room_size, lit
        device = torch.device(device)
        n_cells = room_size**2
        self._tasks = select_tasks(n_cells * (n_cells - 1), split, device)
        self._moves = torch.tensor(MOVES, device=device)
        self._position = torch.full((n_envs, 2), room_size // 2, device=device)
        self._key = torch.zeros(n_envs, 2, dtype=torch.int64, device=device)
        self._door = torch.zeros_like(self._key)
        self._has_key = torch.zeros(n_envs, dtype=torch.bool, device=device)
        super().__init__(
            n_envs=n_envs,
            n_actions=len(MOVES),
            observation_size=(6 if lit else 2) * room_size + 2,
            n_tasks=len(self._tasks),
            episode_length=episode_length,
            trial_length=trial_length,
            seed=seed,
            device=device,
        )

    @property
    def key(self) -> Tensor:
        """Row and column of every environment's key, int64 ``[n_envs, 2]``."""
        return self._key

    @property
    def door(self) -> Tensor:
        """Row and column of every environment's door, int64 ``[n_envs, 2]``."""
        return self._door

    def _begin_tasks(self, rows: Tensor, tasks: Tensor) -> None:
        n_cells = self.room_size**2
        task = self._tasks[tasks]
        key, door = task // (n_cells - 1), task % (n_cells - 1)
        door = door + (door >= key)  # the door is in any cell but the key's
        self._key = torch.where(rows.unsqueeze(-1), self._cell(key), self._key)
        self._door = torch.where(rows.unsqueeze(-1), self._cell(door), self._door)

    def _begin_episodes(self, rows: Tensor) -> None:
        self._position.masked_fill_(rows.unsqueeze(-1), self.room_size // 2)
        self._has_key.masked_fill_(rows, False)

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor]:
        self._position = (self._position + self._moves[action]).clamp(0, self.room_size - 1)
        takes_key = (self._position == self._key).all(-1) & ~self._has_key
        self._has_key |= takes_key
        opens_door = (self._position == self._door).all(-1) & self._has_key
        return takes_key.float() + opens_door.float(), opens_door

    def _observe(self, episode_time: Tensor) -> Tensor:
        seen = [self._position, self._key, self._door] if self.lit else [self._position]
        cells = one_hot(torch.cat(seen, -1), self.room_size).flatten(1)
        status = torch.stack([self._has_key.float(), episode_time], -1)
        return torch.cat([cells, status], -1)

    def _cell(self, index: Tensor) -> Tensor:
        return torch.stack([index // self.room_size, index % self.room_size], -1)
