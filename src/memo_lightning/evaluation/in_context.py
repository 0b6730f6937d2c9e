"""What happened within trials: learning in context is reward that rises from early to late in a trial."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap
from tensordict import TensorDictBase
from torch import Tensor


@dataclass(frozen=True)
class TrialRecord:
    """The complete trials of one or more rollouts.

    Attributes:
        rewards: reward collected in each bin of a trial, ``[n_trials, n_bins]``; bins are equal parts of the
            trial's length.
        lengths: steps of each trial, ``[n_trials]``.
        episode_returns: return of each trial's k-th ended episode, ``[n_trials, n_episodes]``, NaN where a
            trial had fewer.
        episode_successes: the same, 1 where the episode reached its goal, 0 where not.
        episode_spl: the same, success weighted by path length, for environments that report it; NaN for others.
        episode_ends: the same, steps of the trial until the episode ended.
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
        """Reward in each of ``n_parts`` equal parts of a trial, ``[n_trials, n_parts]``; divides ``n_bins``."""
        return self.rewards.reshape(len(self.rewards), n_parts, -1).sum(2)

    def by_steps(self, bin_steps: int) -> dict[str, list[Any]]:
        """Return success and SPL of the episodes that ended in each ``bin_steps`` steps of a trial.

        Returns:
            ``steps`` (the end of each bin), ``n_episodes``, and of ``success`` and, where it is reported, ``spl`` the
            mean over episodes and, as ``success_interval`` and ``spl_interval``, its 95 % interval; None for what does
            not exist, as in a bin in which no episode ended.
        """
        n_bins = -(-int(self.lengths.max()) // bin_steps)
        bins = np.ceil(self.episode_ends / bin_steps) - 1
        member = bins[:, :, None] == np.arange(n_bins)  # [n_trials, n_episodes, n_bins]
        table: dict[str, list[Any]] = {
            "steps": [float(bin_steps * (k + 1)) for k in range(n_bins)],
            "n_episodes": member.sum((0, 1)).tolist(),
        }
        for name, values in self._measures().items():
            totals = np.where(member, np.nan_to_num(values)[:, :, None], 0).sum(1)
            estimate = estimate_ratio(totals, member.sum(1))
            table[name] = _plain(estimate.mean)
            table[f"{name}_interval"] = _plain(np.stack([estimate.low, estimate.high], 1))
        return table

    def by_episode(self) -> dict[str, list[Any]]:
        """Return figures of the k-th episode of a trial, over the trials that had so many.

        Returns:
            ``n_trials``, and of ``return``, ``success`` and, where it is reported, ``spl`` the mean and, as
            ``return_interval`` and so on, its 95 % interval; None for an interval that does not exist.
        """
        table: dict[str, list[Any]] = {"n_trials": np.isfinite(self.episode_returns).sum(0).tolist()}
        for name, values in {"return": self.episode_returns, **self._measures()}.items():
            estimate = estimate_mean(values)
            table[name] = _plain(estimate.mean)
            table[f"{name}_interval"] = _plain(np.stack([estimate.low, estimate.high], 1))
        return table

    def mean_over_episodes(self) -> dict[str, float]:
        """Return ``success`` and, where it is reported, ``spl``, the mean over all episodes; nothing without any."""
        measures = self._measures()
        return {name: float(np.nanmean(values)) for name, values in measures.items() if np.isfinite(values).any()}

    def _measures(self) -> dict[str, NDArray[np.float64]]:
        """Return what episodes are measured by, ``[n_trials, n_episodes]`` by name."""
        spl = {"spl": self.episode_spl} if np.isfinite(self.episode_spl).any() else {}
        return {"success": self.episode_successes, **spl}

    def as_tensors(self) -> dict[str, Tensor]:
        """Return the arrays as tensors, which a checkpoint can hold without pickle."""
        return {field.name: torch.from_numpy(getattr(self, field.name)) for field in fields(self)}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> TrialRecord:
        """Return the record that :meth:`as_tensors` was called on."""
        return TrialRecord(**{name: tensor.numpy() for name, tensor in tensors.items()})

    @staticmethod
    def of(rows: TensorDictBase, n_bins: int = 20, longest: int = 1) -> TrialRecord:
        """Read the complete trials of a rollout ``[B, T]`` whose rows begin at the start of a trial.

        Args:
            rows: the rollout.
            n_bins: parts of a trial.
            longest: steps of the longest trial there can be, where trials differ in length. Trials that begin so late
                that one of them would not have ended are left out, also if they have: else short ones would be
                seen too often.
        """
        first = rows.get("is_init").squeeze(-1).clone()
        first[:, 0] = True
        trial = first.flatten().cumsum(0).cpu() - 1  # index of the trial that each step belongs to
        starts = first.flatten().nonzero().squeeze(1).cpu()
        lengths = torch.bincount(trial)
        step = torch.arange(len(trial)) - starts[trial]

        def entry(key: str) -> Tensor:
            return rows.get(("next", key)).reshape(-1).cpu()

        n_trials = len(lengths)
        complete = torch.zeros(n_trials, dtype=torch.bool)
        complete[trial[entry("done")]] = True
        n_steps = rows.shape[1]
        complete &= starts % n_steps <= n_steps - min(longest, n_steps)

        bins = torch.zeros(n_trials * n_bins, dtype=torch.float64)
        bins.index_add_(0, trial * n_bins + step * n_bins // lengths[trial], entry("reward").double())

        ends = entry("episode_end").nonzero().squeeze(1)  # in order of time within each trial
        episodes_before = torch.bincount(trial[ends], minlength=n_trials).cumsum(0)
        episode = torch.arange(len(ends)) - torch.cat([torch.zeros(1).long(), episodes_before[:-1]])[trial[ends]]
        n_episodes = int(episode.max()) + 1 if len(ends) else 0

        def by_episode(values: Tensor) -> NDArray[np.float64]:
            table = torch.full((n_trials, n_episodes), torch.nan, dtype=torch.float64)
            table[trial[ends], episode] = values[ends].double()
            return table[complete].numpy()

        reports_spl = ("next", "spl") in rows.keys(include_nested=True)
        return TrialRecord(
            bins.view(n_trials, n_bins)[complete].numpy(),
            lengths[complete].numpy(),
            by_episode(entry("episode_return")),
            by_episode(entry("success")),
            by_episode(entry("spl") if reports_spl else torch.full((len(trial),), torch.nan)),
            by_episode(step + 1),
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


@dataclass(frozen=True)
class Estimate:
    """A mean over trials with its bootstrap interval, each an array of the same shape."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def estimate_mean(values: NDArray[np.float64], confidence: float = 0.95) -> Estimate:
    """Return the mean over the first axis, with a percentile bootstrap interval over it.

    NaN entries are left out; where they are so many that a resample may hold nothing else, the interval is
    NaN. With a single value the interval is that value.
    """
    present = np.isfinite(values)
    return estimate_ratio(np.where(present, values, 0.0), present, confidence)


def estimate_ratio(totals: NDArray[np.float64], counts: NDArray, confidence: float = 0.95) -> Estimate:
    """Return the sum of totals over the sum of counts, with a percentile bootstrap interval over the first axis.

    Args:
        totals: e.g. successes of each trial in each stretch of it, ``[n_trials, ...]``.
        counts: e.g. episodes of each trial in each stretch, of the same shape; where there are none there is no mean
            (NaN), and where a resample may hold none there is no interval.
        confidence: of the interval.
    """

    def ratio(totals: NDArray, counts: NDArray, axis: int = 0) -> NDArray[np.float64]:
        return np.sum(totals, axis=axis) / np.sum(counts, axis=axis)

    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # means of nothing, as said above
        mean = np.asarray(ratio(totals, counts))
        if len(totals) < 2 or not mean.size:
            return Estimate(mean, mean, mean)
        interval = bootstrap(
            (totals, counts.astype(np.float64)),
            ratio,
            axis=0,
            paired=True,
            n_resamples=1000,
            batch=100,
            method="percentile",
            confidence_level=confidence,
            random_state=np.random.default_rng(0),
        ).confidence_interval
    return Estimate(mean, np.asarray(interval.low), np.asarray(interval.high))


def _plain(values: NDArray[np.float64]) -> list[Any]:
    """Return nested lists with None for what is not a number, which JSON does not know."""
    plain = values.astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()
