"""The metrics of a finished run that rules and plots can use: a closed set, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = Mapping[str, Any]

_BESIDE_BOUNDARY = 5  # steps
_BACK = 6  # steps: even, so that both windows begin at steps of the same parity


def frames_to(history: Sequence[Sequence[float]], threshold: float) -> float:
    """Return the number of frames after which a rollout's return per trial first reaches ``threshold``.

    Args:
        history: frames and return per trial of the rollouts, in order.
        threshold: return per trial.

    Returns:
        The frames; infinity if it was never reached.
    """
    return next((float(frames) for frames, score in history if score >= threshold), float("inf"))


def late_in_layout(evaluation: Numbers) -> float:
    """Return the doors opened per 100 steps towards the end of a layout, averaged over layouts after a trial's first.

    A trial has ``layouts_per_trial`` equal parts, whose length is a multiple of the evaluation's bins; the last bin of
    every part counts, also one in which no episode has ended. An episode that ends with a door is a success.
    """
    table, n_layouts = evaluation["by_steps"], evaluation["env"]["layouts_per_trial"]
    part = evaluation["trial_length"] / n_layouts
    ends = [part * number for number in range(2, n_layouts + 1)]
    if not table["steps"]:
        return 0.0 if ends else float("nan")
    width = table["steps"][0]
    if not ends or part % width:
        return float("nan")
    opened = dict(zip(table["steps"], _successes(table), strict=True))
    return float(np.mean([opened.get(end, 0.0) for end in ends]) / evaluation["n_trials"] * 100 / width)


def doors_in_last_bin(evaluation: Numbers) -> float:
    """Return the successes in the last bin of ``bin_steps`` steps of a trial, averaged over trials."""
    table = evaluation["by_steps"]
    if not table["steps"] or table["steps"][-1] < evaluation["trial_length"]:  # no episode has ended in it
        return 0.0
    return float(_successes(table)[-1]) / evaluation["n_trials"]


def later_success_over_first(evaluation: Numbers) -> float:
    """Return the share of successful episodes after the first bin of ``bin_steps`` steps, relative to that in it."""
    table = evaluation["by_steps"]
    n_episodes, successes = np.array(table["n_episodes"]), _successes(table)
    if not successes[:1].any() or not n_episodes[1:].any():
        return float("nan")
    return float(successes[1:].sum() / n_episodes[1:].sum() * n_episodes[0] / successes[0])


def after_over_before_boundary(evaluation: Numbers) -> float:
    """Return the ratio of successes in the five steps after a segment boundary to those in five steps before it.

    Those before begin six steps earlier. On a grid, doors open more often at steps of one parity than of the other, if
    all trials begin together, so windows that begin five steps apart differ even where there is no boundary.

    Successes are summed over trials and over the boundaries after a trial's first quarter, in which it learns. Bins
    must be single steps.
    """
    table, length = evaluation["by_steps"], evaluation["segment_length"]
    n_steps = int(evaluation["trial_length"])
    successes = np.zeros(n_steps)  # by the step in which an episode ends
    ends = np.array(table["steps"], dtype=np.int64) - 1
    successes[ends] = _successes(table)
    boundaries = np.arange(length, n_steps - _BESIDE_BOUNDARY + 1, length)
    boundaries = boundaries[boundaries > n_steps / 4][:, None]
    steps = np.arange(_BESIDE_BOUNDARY)
    before = successes[boundaries - _BACK + steps].sum()
    return float(successes[boundaries + steps].sum() / before) if before else float("nan")


def final_over_best(training: Numbers) -> float:
    """Return the final return of a training run over its best: 1 if it never loses what it has learned.

    Both are means over a tenth of the rollouts; NaN if the best return is not above zero.
    """
    returns = np.array([score for _, score in training["history"]])
    width = max(1, len(returns) // 10)
    means = np.convolve(returns, np.full(width, 1 / width), "valid")
    return float(means[-1] / means.max()) if means.max() > 0 else float("nan")


def _successes(table: Numbers) -> NDArray[np.float64]:
    """Return the number of successes in each bin of ``by_steps``, which has none after the last end of an episode."""
    return np.array([share or 0.0 for share in table["success"]]) * np.array(table["n_episodes"])


def _quarters(one: int, other: int) -> Callable[[Numbers], float]:
    def share(evaluation: Numbers) -> float:
        quarters = evaluation["return_by_quarter"]
        return quarters[one] / quarters[other] if quarters[other] else float("nan")

    return share


# Metrics of an evaluation.
EVALUATED: dict[str, Callable[[Numbers], float]] = {
    "return_per_trial": lambda evaluation: evaluation["return_per_trial"],
    "return_per_step": lambda evaluation: evaluation["return_per_trial"] / evaluation["mean_trial_length"],
    "success": lambda evaluation: evaluation["success"],
    "last_quarter_over_first": _quarters(3, 0),
    "last_quarter_over_second": _quarters(3, 1),
    "late_in_layout": late_in_layout,
    "doors_in_last_bin": doors_in_last_bin,
    "later_success_over_first": later_success_over_first,
    "after_over_before_boundary": after_over_before_boundary,
    "memory_bytes": lambda evaluation: evaluation["memory_bytes"],
}

# Metrics of training: means over its last rollouts, and the cost of its memory at the length of its trials.
TRAINED: dict[str, Callable[[Numbers], float]] = {
    "return_per_trial": lambda training: training["return_per_trial"],
    "final_over_best": final_over_best,
    "memory_bytes": lambda training: training["memory_bytes"],
    "flops_per_step": lambda training: training["flops_per_step"],
    "frames_per_second": lambda training: training["frames_per_second"],
    "parameters": lambda training: training["parameters"],
}
