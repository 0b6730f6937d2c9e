"""Many rooms: what was found in one of them is needed again much later, unseen in between."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from memo_lightning.envs.dark_key_to_door import DarkKeyToDoor
from memo_lightning.envs.random_streams import draw_below
from memo_lightning.errors import require

_LAYOUTS, _VISITS = 1, 2  # additional random streams of each environment


class ManyRooms(DarkKeyToDoor):
    """Trials in K rooms, each with its own key and door; every episode is in a room drawn at random.

    Episodes are those of :class:`DarkKeyToDoor`, but the observation also says which room it is (one-hot). What was
    found in one room is useless in another, and a room comes back after K episodes on average. An agent that attends
    only to recent steps has forgotten a room by the time it comes back, so the memory that is needed grows with K.

    The layouts of a trial's rooms are drawn independently from the tasks of :class:`DarkKeyToDoor` in the split, so no
    layout of a held-out trial is ever trained on.

    Args:
        n_rooms: number of rooms K.
        n_envs, room_size, episode_length, trial_length, lit, split, seed, device: see :class:`DarkKeyToDoor`.

    Raises:
        UserError: if a setting is out of range.
    """

    def __init__(
        self,
        *,
        n_envs: int,
        n_rooms: int = 8,
        room_size: int = 5,
        episode_length: int = 20,
        trial_length: int = 800,
        lit: bool = False,
        split: str = "train",
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        require(n_rooms >= 1, "env.n_rooms", n_rooms, "at least 1")
        self.n_rooms = n_rooms
        self._layouts = torch.zeros(n_envs, n_rooms, dtype=torch.int64, device=device)
        self._room = torch.zeros(n_envs, dtype=torch.int64, device=device)
        self._visits = torch.zeros_like(self._room)
        super().__init__(
            n_envs=n_envs,
            room_size=room_size,
            episode_length=episode_length,
            trial_length=trial_length,
            lit=lit,
            split=split,
            seed=seed,
            device=device,
        )

    @property
    def room(self) -> Tensor:
        """The room of every environment's episode, int64 ``[n_envs]``."""
        return self._room

    @property
    def _n_status(self) -> int:
        return 1 + self.n_rooms

    def _begin_tasks(self, which: Tensor, tasks: Tensor) -> None:
        rooms = torch.arange(self.n_rooms, device=self.device)
        counters = self._trial_index.unsqueeze(-1) * self.n_rooms + rooms
        layouts = draw_below(self._stream(_LAYOUTS).unsqueeze(-1).expand_as(counters), counters, self._n_tasks)
        self._layouts = torch.where(which.unsqueeze(-1), layouts, self._layouts)
        self._visits = self._visits.masked_fill(which, 0)

    def _begin_episodes(self, which: Tensor) -> None:
        super()._begin_episodes(which)
        # Counted within the trial, so that the rooms of a trial do not depend on how the ones before it went.
        visit = self._trial_index * (self.trial_length + 1) + self._visits
        self._room = torch.where(which, draw_below(self._stream(_VISITS), visit, self.n_rooms), self._room)
        self._visits = self._visits + which
        super()._begin_tasks(which, self._layouts.gather(1, self._room.unsqueeze(-1)).squeeze(-1))

    def _status(self) -> list[Tensor]:
        return [*super()._status(), *one_hot(self._room, self.n_rooms).float().unbind(-1)]
