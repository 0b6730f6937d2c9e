"""Statistics over seeds, following the conventions of rliable (arXiv 2108.13264)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, trim_mean

from memo_lightning.evaluation.in_context import Estimate

# With fewer seeds, an interval says little; it is shown with a warning.
FEW_SEEDS = 5


def interquartile_mean(values: NDArray[np.float64], axis: int = 0) -> NDArray[np.float64]:
    """Return the mean of the middle half of ``values``; of fewer than four values, the mean of all."""
    return trim_mean(values, 0.25, axis=axis)


def estimate_over_seeds(values: NDArray[np.float64], confidence: float = 0.95) -> Estimate:
    """Return the interquartile mean over the first axis, with its percentile bootstrap interval.

    Args:
        values: one value per seed, ``[n_seeds, ...]``.
        confidence: confidence level of the interval.

    Returns:
        The estimate, ``[...]``; bounds are NaN for a single seed, which says nothing about others.
    """
    values = np.asarray(values, dtype=np.float64)
    centre = np.asarray(interquartile_mean(values))
    if len(values) < 2:
        return Estimate(centre, np.full_like(centre, np.nan), np.full_like(centre, np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # seeds that agree exactly have an interval of zero width
        interval = bootstrap(
            (values,),
            interquartile_mean,
            axis=0,
            n_resamples=2000,
            method="percentile",
            confidence_level=confidence,
            random_state=np.random.default_rng(0),
        ).confidence_interval
    return Estimate(centre, np.asarray(interval.low), np.asarray(interval.high))
