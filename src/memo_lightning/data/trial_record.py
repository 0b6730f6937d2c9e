"""Records of complete trials: their rewards and episodes, read from rollouts."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDictBase
from torch import Tensor

from memo_lightning.envs.reports import MEASURES, SUCCESS, SUCCESS_REPORTED

SPL = (MEASURES, "spl")
# Keys of `next` that a record is made of, and those among them that only some environments report.
READ = ("reward", "done", "episode_end", "episode_return", SUCCESS, SUCCESS_REPORTED, SPL)
OPTIONAL = (SUCCESS, SUCCESS_REPORTED, SPL)


@dataclass(frozen=True)
class TrialRecord:
    """The complete trials of one or more rollouts.

    Attributes:
        rewards: reward collected in each bin of a trial, ``[n_trials, n_bins]``; bins are equal parts of the
            trial's length.
        lengths: steps of each trial, ``[n_trials]``.
        episode_returns: return of the k-th episode that ended in each trial, ``[n_trials, n_episodes]``; NaN where a
            trial had fewer.
        episode_successes: success of each episode, of the same shape: 1 where it reached its goal, 0 where not; all
            NaN if the environment never reports success.
        episode_spl: success weighted by path length, of the same shape; all NaN if the environment does not report it.
        episode_ends: steps of the trial until each episode ended, of the same shape.
    """

    rewards: NDArray[np.float64]
    lengths: NDArray[np.int64]
    episode_returns: NDArray[np.float64]
    episode_successes: NDArray[np.float64]
    episode_spl: NDArray[np.float64]
    episode_ends: NDArray[np.float64]

    @property
    def returns(self) -> NDArray[np.float64]:
        """Return of each trial, ``[n_trials]``."""
        return self.rewards.sum(1)

    def by_part(self, n_parts: int) -> NDArray[np.float64]:
        """Return the reward in each of ``n_parts`` equal parts of a trial, ``[n_trials, n_parts]``.

        ``n_parts`` must divide ``n_bins``.
        """
        return self.rewards.reshape(len(self.rewards), n_parts, -1).sum(2)

    def as_tensors(self) -> dict[str, Tensor]:
        """Return the arrays as tensors, which a checkpoint can hold without pickle."""
        return {field.name: torch.from_numpy(getattr(self, field.name)) for field in fields(self)}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> TrialRecord:
        """Rebuild a record from the tensors that :meth:`as_tensors` returned."""
        return TrialRecord(**{name: tensor.numpy() for name, tensor in tensors.items()})

    @staticmethod
    def of(steps: TensorDictBase, n_bins: int = 20, longest: int = 1) -> TrialRecord:
        """Read the complete trials of a rollout ``[B, T]`` whose sequences begin at the start of a trial.

        Args:
            steps: the rollout, with ``is_init`` and, under ``next``, the keys of :data:`READ`.
            n_bins: number of bins of a trial.
            longest: steps of the longest possible trial, where trials differ in length. Trials that begin too late
                for one of that length to end are left out, even if they ended: otherwise short trials would be
                over-represented.
        """
        first = steps.get("is_init").squeeze(-1).clone()
        first[:, 0] = True
        trial = first.flatten().cumsum(0).cpu() - 1  # index of the trial that each step belongs to
        starts = first.flatten().nonzero().squeeze(1).cpu()
        lengths = torch.bincount(trial)
        place = torch.arange(len(trial)) - starts[trial]  # step within its trial

        def flat(*key: str) -> Tensor:
            return steps.get(("next", *key)).reshape(-1).cpu()

        n_trials = len(lengths)
        complete = torch.zeros(n_trials, dtype=torch.bool)
        complete[trial[flat("done")]] = True
        n_steps = steps.shape[1]
        complete &= starts % n_steps <= n_steps - min(longest, n_steps)

        bins = torch.zeros(n_trials * n_bins, dtype=torch.float64)
        bins.index_add_(0, trial * n_bins + place * n_bins // lengths[trial], flat("reward").double())

        ends = flat("episode_end").nonzero().squeeze(1)  # in temporal order within each trial
        episodes_before = torch.bincount(trial[ends], minlength=n_trials).cumsum(0)
        episode = torch.arange(len(ends)) - torch.cat([torch.zeros(1).long(), episodes_before[:-1]])[trial[ends]]
        n_episodes = int(episode.max()) + 1 if len(ends) else 0

        def by_episode(values: Tensor) -> NDArray[np.float64]:
            table = torch.full((n_trials, n_episodes), torch.nan, dtype=torch.float64)
            table[trial[ends], episode] = values[ends].double()
            return table[complete].numpy()

        nothing = torch.full((len(trial),), torch.nan)
        success = successes(steps)
        reports_spl = ("next", *SPL) in steps.keys(include_nested=True)
        return TrialRecord(
            bins.view(n_trials, n_bins)[complete].numpy(),
            lengths[complete].numpy(),
            by_episode(flat("episode_return")),
            by_episode(nothing if success is None else success.reshape(-1).cpu()),
            by_episode(flat(*SPL) if reports_spl else nothing),
            by_episode(place + 1),
        )

    @staticmethod
    def concatenate(records: list[TrialRecord]) -> TrialRecord:
        """Join the trials of several rollouts."""
        n_episodes = max(record.episode_returns.shape[1] for record in records)

        def widened(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.pad(values, ((0, 0), (0, n_episodes - values.shape[1])), constant_values=np.nan)

        return TrialRecord(
            np.concatenate([record.rewards for record in records]),
            np.concatenate([record.lengths for record in records]),
            np.concatenate([widened(record.episode_returns) for record in records]),
            np.concatenate([widened(record.episode_successes) for record in records]),
            np.concatenate([widened(record.episode_spl) for record in records]),
            np.concatenate([widened(record.episode_ends) for record in records]),
        )


def successes(steps: TensorDictBase) -> Tensor | None:
    """Return bool ``[B, T, 1]``, true where an episode is a success; None if success is never reported.

    If an environment reports success at the end of some episodes only, the others count as failures.

    Args:
        steps: a rollout ``[B, T]`` with the reports in ``next``.
    """
    reported = steps.get(("next", SUCCESS_REPORTED), None)
    if reported is not None and not reported.any():
        return None
    return steps.get(("next", SUCCESS), None)
