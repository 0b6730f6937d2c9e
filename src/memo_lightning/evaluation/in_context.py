"""In-context learning, seen as reward that rises within a trial: tables and intervals over trials."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from memo_lightning.data.trial_record import TrialRecord

_MOST_BINS = 10


@dataclass(frozen=True)
class Estimate:
    """A mean and its bootstrap interval, arrays of the same shape."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def estimate_mean(values: NDArray[np.float64], confidence: float = 0.95) -> Estimate:
    """Return the mean over the first axis, with its percentile bootstrap interval.

    NaN are left out; if there are so many that a resample may hold nothing else, the interval is NaN. With a single
    value the interval is that value.
    """
    present = np.isfinite(values)
    return estimate_ratio(np.where(present, values, 0.0), present, confidence)


def estimate_ratio(totals: NDArray[np.float64], counts: NDArray, confidence: float = 0.95) -> Estimate:
    """Return the sum of totals divided by the sum of counts, with a percentile bootstrap interval over the first axis.

    Args:
        totals: e.g. successes in each bin of each trial, ``[n_trials, ...]``.
        counts: e.g. episodes in each bin of each trial, of the same shape. Where there are none the mean is NaN, and
            where a resample may hold none so is the interval.
        confidence: confidence level of the interval.
    """

    def ratio(totals: NDArray, counts: NDArray, axis: int = 0) -> NDArray[np.float64]:
        return np.sum(totals, axis=axis) / np.sum(counts, axis=axis)

    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # means of nothing are NaN, as documented
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


def bin_steps_that_fit(records: Sequence[TrialRecord], episode_length: int | None = None) -> int:
    """Return the default number of steps per bin of a trial, for at most ten bins.

    A bin spans a whole number of episodes of the greatest length, so that in every trial an episode ends in each bin.

    Args:
        records: trials that share the bins.
        episode_length: the most steps of an episode, if known; else those of the longest episode in the trials.
    """
    trial_length = max(int(record.lengths.max()) for record in records)
    longest = min(episode_length or max(_longest_episode(record) for record in records), trial_length)
    return longest * -(-trial_length // (_MOST_BINS * longest))


def _longest_episode(record: TrialRecord) -> int:
    """Return the steps of the longest episode that ended; of the longest trial, if none did."""
    if not record.episode_ends.size:
        return int(record.lengths.max())
    return int(np.nanmax(np.diff(record.episode_ends, axis=1, prepend=0.0)))


def by_steps(record: TrialRecord, bin_steps: int) -> dict[str, list[Any]]:
    """Return success and SPL of the episodes that ended in each bin of ``bin_steps`` steps of a trial.

    Returns:
        ``steps`` (the end of each bin, up to the last in which an episode ended), ``n_episodes``, and, where reported,
        ``success`` and ``spl``, means over episodes, with their 95 % intervals ``success_interval`` and
        ``spl_interval``; None where a value does not exist, as in a bin in which no episode ended.
    """
    bins = np.ceil(record.episode_ends / bin_steps) - 1
    n_bins = int(np.nanmax(bins)) + 1 if bins.size else 0
    member = bins[:, :, None] == np.arange(n_bins)  # [n_trials, n_episodes, n_bins]
    table: dict[str, list[Any]] = {
        "steps": [float(min(bin_steps * (k + 1), record.lengths.max())) for k in range(n_bins)],
        "n_episodes": member.sum((0, 1)).tolist(),
    }
    for name, values in _measures(record).items():
        totals = np.where(member, np.nan_to_num(values)[:, :, None], 0).sum(1)
        estimate = estimate_ratio(totals, member.sum(1))
        table[name] = _plain(estimate.mean)
        table[f"{name}_interval"] = _plain(np.stack([estimate.low, estimate.high], 1))
    return table


def reward_per_step(record: TrialRecord) -> tuple[NDArray[np.float64], Estimate]:
    """Return the middle of each part of a trial, in steps, and the mean reward per step in it.

    If trials have fewer steps than a record has parts, the parts without a step are left out.
    """
    n_parts = record.rewards.shape[1]
    bounds = np.ceil(np.arange(n_parts + 1) * record.lengths[:, None] / n_parts)  # [n_trials, n_parts + 1]
    n_steps = np.diff(bounds, axis=1)
    held = n_steps.any(0)
    middles = (bounds[:, :-1] + bounds[:, 1:]) / 2
    centres = (middles * n_steps)[:, held].sum(0) / n_steps[:, held].sum(0)
    return centres, estimate_ratio(record.rewards[:, held], n_steps[:, held])


def by_episode(record: TrialRecord) -> dict[str, list[Any]]:
    """Return statistics of the k-th episode of a trial, over the trials that had that many.

    Returns:
        ``n_trials``, the means ``return`` and, where reported, ``success`` and ``spl``, and their 95 % intervals
        ``return_interval`` and so on; None for an interval that does not exist.
    """
    table: dict[str, list[Any]] = {"n_trials": np.isfinite(record.episode_returns).sum(0).tolist()}
    for name, values in {"return": record.episode_returns, **_measures(record)}.items():
        estimate = estimate_mean(values)
        table[name] = _plain(estimate.mean)
        table[f"{name}_interval"] = _plain(np.stack([estimate.low, estimate.high], 1))
    return table


def mean_over_episodes(record: TrialRecord) -> dict[str, float]:
    """Return the means of ``success`` and ``spl`` over all episodes; those that are not reported are left out."""
    measures = _measures(record)
    return {name: float(np.nanmean(values)) for name, values in measures.items() if np.isfinite(values).any()}


def _measures(record: TrialRecord) -> dict[str, NDArray[np.float64]]:
    """Return the reported measures of episodes, ``[n_trials, n_episodes]`` by name."""
    measures = {"success": record.episode_successes, "spl": record.episode_spl}
    return {name: values for name, values in measures.items() if np.isfinite(values).any()}


def _plain(values: NDArray[np.float64]) -> list[Any]:
    """Return nested lists, with None for values that are not finite, which JSON lacks."""
    plain = values.astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()
