"""What a policy has seen since its memory was made, so that new weights can make the memory anew."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase

# Entries that tell about the step before, and so belong to the place in the row and not to the step.
_ABOUT_STEP_BEFORE = ("episode_end", "previous_step")


class InputHistory:
    """The inputs of all steps since the memory was last made, as rows ``[N, t]``.

    Args:
        shuffle_episodes: whether :meth:`reorder` changes anything.
    """

    def __init__(self, shuffle_episodes: bool) -> None:
        self.shuffle_episodes = shuffle_episodes
        self._parts: list[TensorDictBase] = []  # rows [N, t_i], in order of time

    def append(self, step: TensorDictBase) -> None:
        """Add the inputs ``[N]`` of one step."""
        self._parts.append(step.unsqueeze(1).clone())  # an environment may write the next step into the same tensors

    def clear(self) -> None:
        """Forget all of them."""
        self._parts.clear()

    def rows(self, seed: int) -> TensorDictBase:
        """Return all inputs ``[N, t]``, their episodes shuffled from now on as :func:`shuffle_episodes` does."""
        rows = torch.cat(self._parts, dim=1)
        if self.shuffle_episodes:
            rows = shuffle_episodes(rows, seed)
        self._parts = [rows]
        return rows


def shuffle_episodes(rows: TensorDictBase, seed: int) -> TensorDictBase:
    """Return rows ``[N, t]`` with the episodes of every trial in random order.

    The last episode of a trial stays the last: it may not be complete. What an entry tells about the step before
    is set anew, so that every row is one that could have been experienced in that order. The order of a trial's
    episodes depends on the seed, the row, and how far from the row's end they begin, and on nothing else: a policy,
    which knows the running trials, and its learner, which has all trials of the rollout, come to the same, in whatever
    processes they are.

    Args:
        rows: a TensorDict ``[N, t]`` with ``is_init`` and ``episode_end [N, t, 1]``, whose rows begin with a trial.
        seed: decides the order.
    """
    first_of_trial = rows.get("is_init").squeeze(-1)
    trial = first_of_trial.cumsum(1)
    starts = first_of_trial | rows.get("episode_end").squeeze(-1)
    episode = starts.cumsum(1) - 1
    last_of_trial = torch.cat([first_of_trial[:, 1:], torch.ones_like(first_of_trial[:, :1])], dim=1)
    # Suffix minimum: the last episode of each step's trial.
    n_steps = rows.shape[1]
    last_episode = torch.where(last_of_trial, episode, n_steps).flip(1).cummin(1).values.flip(1)

    generator = torch.Generator().manual_seed(seed)
    # Drawn from the end of the rows on, and so the same for rows that begin later.
    draws = torch.rand((n_steps, len(rows)), generator=generator).flip(0).T.to(episode.device)
    first_of_episode = torch.where(starts, torch.arange(n_steps, device=episode.device), 0).cummax(1).values
    place = draws.gather(1, first_of_episode).masked_fill(episode == last_episode, 1.0)  # draws are below one
    order = (2 * trial + place.double()).argsort(dim=1, stable=True)  # stable: steps keep their order

    shuffled = _gather(rows, order)
    before = order.roll(1, dims=1)
    for key in _ABOUT_STEP_BEFORE:
        entry = rows.get(key, None)
        if entry is not None:
            after_that = _take(entry.roll(-1, dims=1), before)
            shuffled.set(key, torch.where(first_of_trial.unsqueeze(-1), entry, after_that))
    return shuffled.set("is_init", rows.get("is_init"))


def _gather(rows: TensorDictBase, order: torch.Tensor) -> TensorDictBase:
    return rows.apply(lambda entry: _take(entry, order))


def _take(entry: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return the steps ``order [N, t]`` of an entry ``[N, t, ...]``."""
    rows = torch.arange(len(order), device=order.device).unsqueeze(1)
    return entry[rows, order]
