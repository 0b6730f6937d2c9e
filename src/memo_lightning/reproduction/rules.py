"""The rules that judge claims: a value, its interval over seeds, and whether it keeps the bound.

A rule is fixed before any run is made. Its verdict is ``holds`` if the whole interval keeps the bound, ``does not
hold`` if none of it does, and ``undecided`` in between, where more seeds would decide. The statistics are those of
rliable (Agarwal et al. 2021, arXiv 2108.13264), computed with scipy: interquartile means, percentile intervals of a
bootstrap stratified by arm, and the probability of improvement. If an arm is compared with itself in another
evaluation, the scores are paired: each is resampled together with that of the same run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from memo_lightning.evaluation.statistics import interquartile_mean

Verdict = Literal["holds", "does not hold", "undecided"]
Scores = NDArray[np.float64]
N_RESAMPLES = 5000
_FAR_MORE = 1e6  # how much longer than its run an arm may take to reach a threshold


@dataclass(frozen=True)
class Bound:
    """A bound on a value, which must be at least or at most a number."""

    value: float
    is_least: bool

    def __str__(self) -> str:
        return f"at {'least' if self.is_least else 'most'} {self.value:g}"

    def keeps(self, value: float) -> bool:
        """Return whether a value keeps the bound."""
        return value >= self.value if self.is_least else value <= self.value


@dataclass(frozen=True)
class Outcome:
    """The finding of a rule.

    Attributes:
        value: the value that is judged.
        low: lower end of its 95 % interval; NaN if there is none, as for a single seed.
        high: upper end of its 95 % interval; NaN if there is none.
        verdict: the verdict of the rule.
    """

    value: float
    low: float
    high: float
    verdict: Verdict


def level(scores: Scores, bound: Bound) -> Outcome:
    """Judge the interquartile mean of an arm's scores ``[n_seeds]``."""
    return _judge(interquartile_mean, (scores,), bound)


def every_seed(scores: Scores, bound: Bound) -> Outcome:
    """Judge the worst of an arm's scores ``[n_seeds]``, without an interval: the bound holds for all seeds or not."""
    worst = float(scores.min() if bound.is_least else scores.max())
    unknown = not np.isfinite(scores).all()
    verdict: Verdict = "undecided" if unknown else "holds" if bound.keeps(worst) else "does not hold"
    return Outcome(worst, math.nan, math.nan, verdict)


def ratio(scores: Scores, others: Scores, bound: Bound, *, paired: bool = False) -> Outcome:
    """Judge the ratio of the interquartile means of ``scores`` and ``others``, each ``[n_seeds]``.

    They are ``paired`` if both are scores of the same runs, in the same order.
    """

    def statistic(one: Scores, other: Scores, axis: int = -1) -> Scores:
        with np.errstate(divide="ignore", invalid="ignore"):  # a divisor of zero leaves it undecided
            return interquartile_mean(one, axis) / interquartile_mean(other, axis)

    return _judge(statistic, (scores, others), bound, paired=paired)


def improvement(scores: Scores, others: Scores, bound: Bound, *, paired: bool = False) -> Outcome:
    """Judge the probability that a run of one arm scores higher than one of another; each ``[n_seeds]``.

    If they are ``paired``, both are scores of the same runs, in the same order, and each run is compared with itself.
    """
    return _judge(share_improved if paired else probability_of_improvement, (scores, others), bound, paired=paired)


def sooner(frames: Scores, others: Scores, total: float, bound: Bound) -> Outcome:
    """Judge the ratio of the frames after which two arms reach a threshold; each ``[n_seeds]``.

    In the ratio, a run that never reaches it counts as one that does at its end, after ``total`` frames. That is the
    least that it may need. The verdict is therefore ``undecided`` unless it is the same if such runs of either arm need
    far more, or if no run of either arm reaches the threshold.
    """
    if not np.isfinite([*frames, *others]).any():
        return Outcome(math.nan, math.nan, math.nan, "undecided")
    least, most = ((np.minimum(frames, longest), np.minimum(others, longest)) for longest in (total, _FAR_MORE * total))
    outcome = ratio(*least, bound)
    verdicts = {ratio(most[0], least[1], bound).verdict, ratio(least[0], most[1], bound).verdict, outcome.verdict}
    return outcome if len(verdicts) == 1 else replace(outcome, verdict="undecided")


def measured(value: float, bound: Bound) -> Outcome:
    """Judge a single measurement."""
    return Outcome(value, math.nan, math.nan, "holds" if bound.keeps(value) else "does not hold")


def probability_of_improvement(scores: Scores, others: Scores, axis: int = -1) -> Scores:
    """Return the share of pairs in which the first is higher, with ties counting half; ``[..., n]`` and ``[..., m]``.

    Args:
        scores: scores of one arm.
        others: scores of the other arm.
        axis: must be the last.
    """
    assert axis in (-1, scores.ndim - 1)
    return _share_above_zero(scores[..., :, None] - others[..., None, :]).mean((-2, -1))


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on a claim: it holds if all of its rules hold, and does not if one of them does not."""
    verdicts = set(verdicts)
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if verdicts == {"holds"} else "undecided"


def share_improved(scores: Scores, others: Scores, axis: int = -1) -> Scores:
    """Return the share of runs whose score is higher than their other score, each ``[..., n]``; ties count half."""
    return _share_above_zero(scores - others).mean(axis)


def _share_above_zero(difference: Scores) -> Scores:
    """Return one where a difference is positive, a half where it is zero, NaN where it does not exist."""
    return np.where(np.isnan(difference), np.nan, (difference > 0) + 0.5 * (difference == 0))


def _judge(
    statistic: Callable[..., Scores], samples: tuple[Scores, ...], bound: Bound, *, paired: bool = False
) -> Outcome:
    """Judge a statistic by its interval; each sample is a stratum of the bootstrap, unless they are ``paired``."""
    value = float(statistic(*samples, axis=-1))
    if min(map(len, samples)) < 2 or not np.isfinite(value):
        return Outcome(value, math.nan, math.nan, "undecided")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # seeds that agree exactly have an interval of zero width
        interval = bootstrap(
            samples,
            statistic,
            n_resamples=N_RESAMPLES,
            method="percentile",
            axis=-1,
            paired=paired,
            random_state=np.random.default_rng(0),
        ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    if not (math.isfinite(low) and math.isfinite(high)):  # the divisor of some resample is zero
        return Outcome(value, math.nan, math.nan, "undecided")
    kept = (bound.keeps(low), bound.keeps(high))
    verdict: Verdict = "holds" if all(kept) else "undecided" if any(kept) else "does not hold"
    return Outcome(value, low, high, verdict)
