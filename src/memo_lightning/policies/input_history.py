"""The inputs of a policy since its memory was last cleared, from which new weights can recompute the memory."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase

from memo_lightning.policies.previous_step import PREVIOUS_STEP

# Keys that describe the previous step. They belong to a position in the sequence, not to the step itself.
_ABOUT_STEP_BEFORE = ("episode_end", PREVIOUS_STEP)


class InputHistory:
    """The inputs of all steps since the memory was last cleared, as sequences ``[N, t]``.

    Args:
        shuffle_episodes: whether :meth:`sequences` puts episodes in random order.
    """

    def __init__(self, shuffle_episodes: bool) -> None:
        self.shuffle_episodes = shuffle_episodes
        self._parts: list[TensorDictBase] = []  # [N, t_i] each, in temporal order

    def append(self, step: TensorDictBase) -> None:
        """Add the inputs ``[N]`` of one step."""
        self._parts.append(step.unsqueeze(1).clone())  # the environment may write the next step into these tensors

    @property
    def n_steps(self) -> int:
        """Number of steps."""
        return sum(part.shape[1] for part in self._parts)

    def share(self, sequences: TensorDictBase) -> None:
        """Keep ``sequences [N, t]``, which hold the same steps, in place of copies, unless episodes are shuffled."""
        if not self.shuffle_episodes:
            self._parts = [sequences]

    def clear(self) -> None:
        """Drop all steps."""
        self._parts.clear()

    def sequences(self, seed: int) -> TensorDictBase:
        """Return all inputs ``[N, t]``; with ``shuffle_episodes``, their episodes are shuffled and stay shuffled."""
        sequences = torch.cat(self._parts, dim=1) if len(self._parts) > 1 else self._parts[0]
        if self.shuffle_episodes:
            sequences = shuffle_episodes(sequences, seed)
        self._parts = [sequences]
        return sequences


def shuffle_episodes(sequences: TensorDictBase, seed: int) -> TensorDictBase:
    """Return sequences ``[N, t]`` with the episodes of every trial in random order.

    The last episode of a trial stays last, as it may be incomplete. Keys that describe the previous step are set anew,
    so that every sequence could have been experienced in its new order. The order of a trial's episodes depends only on
    the seed, the environment, and how far from the end of the sequence the episodes begin. A policy, which knows the
    running trials, and its learner, which has all trials of the rollout, therefore get the same order, even in
    different processes.

    Args:
        sequences: ``[N, t]`` with ``is_init`` and ``episode_end [N, t, 1]``; each begins with the start of a trial.
        seed: determines the order.
    """
    first_of_trial = sequences.get("is_init").squeeze(-1)
    trial = first_of_trial.cumsum(1)
    starts = first_of_trial | sequences.get("episode_end").squeeze(-1)
    episode = starts.cumsum(1) - 1
    last_of_trial = torch.cat([first_of_trial[:, 1:], torch.ones_like(first_of_trial[:, :1])], dim=1)
    # Suffix minimum: the last episode of each step's trial.
    n_steps = sequences.shape[1]
    last_episode = torch.where(last_of_trial, episode, n_steps).flip(1).cummin(1).values.flip(1)

    generator = torch.Generator().manual_seed(seed)
    # Drawn backwards from the end, so that sequences that begin later get the same draws.
    draws = torch.rand((n_steps, len(sequences)), generator=generator).flip(0).T.to(episode.device)
    first_of_episode = torch.where(starts, torch.arange(n_steps, device=episode.device), 0).cummax(1).values
    place = draws.gather(1, first_of_episode).masked_fill(episode == last_episode, 1.0)  # draws are below one
    order = (2 * trial + place.double()).argsort(dim=1, stable=True)  # stable: steps keep their order

    shuffled = sequences.apply(lambda values: _take(values, order))
    before = order.roll(1, dims=1)
    for key in _ABOUT_STEP_BEFORE:
        values = sequences.get(key, None)
        if values is not None:
            after_that = _take(values.roll(-1, dims=1), before)
            shuffled.set(key, torch.where(first_of_trial.unsqueeze(-1), values, after_that))
    return shuffled.set("is_init", sequences.get("is_init"))


def _take(values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return ``values [N, t, ...]`` with their steps in ``order [N, t]``."""
    environments = torch.arange(len(order), device=order.device).unsqueeze(1)
    return values[environments, order]
