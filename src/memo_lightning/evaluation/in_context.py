"""Learning in context is reward that rises from early to late in a trial: tables and intervals of what trials held."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from memo_lightning.data.trial_record import TrialRecord


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


def by_steps(record: TrialRecord, bin_steps: int) -> dict[str, list[Any]]:
    """Return success and SPL of the episodes that ended in each ``bin_steps`` steps of a trial.

    Returns:
        ``steps`` (the end of each bin), ``n_episodes``, and, where they are reported, of ``success`` and ``spl`` the
        mean over episodes and, as ``success_interval`` and ``spl_interval``, its 95 % interval; None for what does
        not exist, as in a bin in which no episode ended.
    """
    n_bins = -(-int(record.lengths.max()) // bin_steps)
    bins = np.ceil(record.episode_ends / bin_steps) - 1
    member = bins[:, :, None] == np.arange(n_bins)  # [n_trials, n_episodes, n_bins]
    table: dict[str, list[Any]] = {
        "steps": [float(bin_steps * (k + 1)) for k in range(n_bins)],
        "n_episodes": member.sum((0, 1)).tolist(),
    }
    for name, values in _measures(record).items():
        totals = np.where(member, np.nan_to_num(values)[:, :, None], 0).sum(1)
        estimate = estimate_ratio(totals, member.sum(1))
        table[name] = _plain(estimate.mean)
        table[f"{name}_interval"] = _plain(np.stack([estimate.low, estimate.high], 1))
    return table


def by_episode(record: TrialRecord) -> dict[str, list[Any]]:
    """Return figures of the k-th episode of a trial, over the trials that had so many.

    Returns:
        ``n_trials``, and of ``return`` and, where they are reported, ``success`` and ``spl`` the mean and, as
        ``return_interval`` and so on, its 95 % interval; None for an interval that does not exist.
    """
    table: dict[str, list[Any]] = {"n_trials": np.isfinite(record.episode_returns).sum(0).tolist()}
    for name, values in {"return": record.episode_returns, **_measures(record)}.items():
        estimate = estimate_mean(values)
        table[name] = _plain(estimate.mean)
        table[f"{name}_interval"] = _plain(np.stack([estimate.low, estimate.high], 1))
    return table


def mean_over_episodes(record: TrialRecord) -> dict[str, float]:
    """Return ``success`` and ``spl``, where they are reported, as means over all episodes; nothing without any."""
    measures = _measures(record)
    return {name: float(np.nanmean(values)) for name, values in measures.items() if np.isfinite(values).any()}


def _measures(record: TrialRecord) -> dict[str, NDArray[np.float64]]:
    """Return what episodes are measured by, ``[n_trials, n_episodes]`` by name."""
    measures = {"success": record.episode_successes, "spl": record.episode_spl}
    return {name: values for name, values in measures.items() if np.isfinite(values).any()}


def _plain(values: NDArray[np.float64]) -> list[Any]:
    """Return nested lists with None for what is not a number, which JSON does not know."""
    plain = values.astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()
