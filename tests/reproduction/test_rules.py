"""Rules: their statistics compared with naive ones, and all three verdicts of each."""

import itertools

import numpy as np
import pytest

from memo_lightning.data.trial_record import TrialRecord
from memo_lightning.evaluation.in_context import by_steps
from memo_lightning.evaluation.statistics import interquartile_mean
from memo_lightning.reproduction import rules
from memo_lightning.reproduction.metrics import EVALUATED, TRAINED, frames_to
from memo_lightning.reproduction.rules import Bound, together

AT_LEAST_ONE, AT_MOST_ONE = Bound(1.0, is_least=True), Bound(1.0, is_least=False)


def naive_mean(values):
    """Return the interquartile mean: a quarter of the values, rounded down, is cut off at each end."""
    values, cut = sorted(values), len(values) // 4
    return sum(values[cut : len(values) - cut]) / (len(values) - 2 * cut)


def naive_interval(statistic, *samples, n=20_000):
    """Return percentiles of a statistic over resamples, with each sample resampled separately."""
    rng = np.random.default_rng(1)
    drawn = [statistic(*(rng.choice(sample, len(sample)) for sample in samples)) for _ in range(n)]
    return np.percentile(drawn, [2.5, 97.5])


ONE, OTHER = np.array([50.0, 61.0, 55.0, 58.0, 70.0]), np.array([40.0, 52.0, 44.0, 47.0])


def test_the_level_and_its_interval_are_the_naive_ones():
    found = rules.level(ONE, AT_LEAST_ONE)
    assert found.value == pytest.approx(naive_mean(ONE))
    assert [found.low, found.high] == pytest.approx(naive_interval(naive_mean, ONE), rel=0.02)


def test_the_ratio_and_its_interval_are_the_naive_ones():
    def naive(one, other):
        return naive_mean(one) / naive_mean(other)

    found = rules.ratio(ONE, OTHER, AT_LEAST_ONE)
    assert found.value == pytest.approx(naive(ONE, OTHER))
    assert [found.low, found.high] == pytest.approx(naive_interval(naive, ONE, OTHER), rel=0.02)


def test_scores_of_the_same_runs_are_resampled_together():
    better = ONE * [1.02, 1.05, 1.01, 1.04, 1.03]
    found, apart = (rules.ratio(better, ONE, AT_LEAST_ONE, paired=paired) for paired in (True, False))
    rng, drawn = np.random.default_rng(1), []
    for _ in range(4000):
        index = rng.integers(len(ONE), size=len(ONE))
        drawn.append(naive_mean(better[index]) / naive_mean(ONE[index]))
    assert found.value == apart.value
    assert [found.low, found.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), rel=0.005)
    assert (found.verdict, apart.verdict) == ("holds", "undecided")
    assert rules.share_improved(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 4.0])) == pytest.approx(0.5)


def test_the_probability_of_improvement_counts_pairs():
    one, other = np.array([1.0, 2.0, 3.0, 3.0]), np.array([2.0, 0.0, 3.0])
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(one, other)]
    found = rules.improvement(one, other, Bound(0.5, is_least=True))
    assert found.value == pytest.approx(np.mean(pairs))
    naive = naive_interval(lambda a, b: np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b]), one, other, n=4000)
    assert found.low == pytest.approx(naive[0], abs=0.05)
    assert found.high == pytest.approx(naive[1], abs=0.05)


def test_the_frames_to_a_threshold_are_those_of_the_first_rollout_that_reaches_it():
    history = [[100, 1.0], [200, 5.0], [300, 3.0], [400, 9.0]]
    assert frames_to(history, 4.0) == 200
    assert frames_to(history, 9.0) == 400
    assert frames_to(history, 10.0) == np.inf


NOTHING = np.full(3, np.nan)
HIGH, LOW, MIXED = np.array([9.0, 10.0, 11.0]), np.array([4.0, 5.0, 6.0]), np.array([3.0, 7.0, 12.0])


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (rules.level(HIGH, Bound(8.0, is_least=True)), "holds"),
        (rules.level(HIGH, Bound(12.0, is_least=True)), "does not hold"),
        (rules.level(HIGH, Bound(10.0, is_least=True)), "undecided"),
        (rules.level(HIGH, Bound(12.0, is_least=False)), "holds"),
        (rules.level(HIGH[:1], Bound(8.0, is_least=True)), "undecided"),  # one seed says nothing about others
        (rules.every_seed(HIGH, Bound(9.0, is_least=True)), "holds"),
        (rules.every_seed(HIGH, Bound(9.5, is_least=True)), "does not hold"),
        (rules.every_seed(np.array([9.0, np.nan]), Bound(1.0, is_least=True)), "undecided"),
        (rules.ratio(HIGH, LOW, AT_LEAST_ONE), "holds"),
        (rules.ratio(LOW, HIGH, AT_LEAST_ONE), "does not hold"),
        (rules.ratio(MIXED, LOW, AT_LEAST_ONE), "undecided"),
        (rules.ratio(HIGH, np.zeros(3), AT_LEAST_ONE), "undecided"),
        (rules.improvement(HIGH, LOW, Bound(0.5, is_least=True)), "holds"),
        (rules.improvement(LOW, HIGH, Bound(0.5, is_least=True)), "does not hold"),
        (rules.improvement(MIXED, LOW, Bound(0.5, is_least=True)), "undecided"),
        (rules.sooner(LOW, HIGH, 20.0, AT_MOST_ONE), "holds"),
        (rules.sooner(HIGH, LOW, 20.0, AT_MOST_ONE), "does not hold"),
        (rules.sooner(LOW, np.full(3, np.inf), 20.0, AT_MOST_ONE), "holds"),
        (rules.sooner(np.full(3, np.inf), np.full(3, np.inf), 20.0, AT_MOST_ONE), "undecided"),
        (rules.sooner(np.full(3, np.inf), HIGH, 20.0, AT_MOST_ONE), "does not hold"),
        # The others may need so much longer that the bound is kept, and the last two of the arm so much that it is not.
        (rules.sooner(HIGH, np.full(3, np.inf), 12.0, Bound(0.5, is_least=False)), "undecided"),
        (rules.sooner(np.array([6.0, np.inf, np.inf]), np.full(3, np.inf), 20.0, AT_MOST_ONE), "undecided"),
        (rules.improvement(NOTHING, LOW, Bound(0.5, is_least=False)), "undecided"),
        (rules.improvement(NOTHING, NOTHING, Bound(0.5, is_least=False), paired=True), "undecided"),
        (rules.improvement(HIGH, HIGH - 1, Bound(0.9, is_least=True), paired=True), "holds"),
        (rules.improvement(HIGH, HIGH - 1, Bound(0.9, is_least=True)), "undecided"),
        (rules.measured(0.1, AT_MOST_ONE), "holds"),
        (rules.measured(1.1, AT_MOST_ONE), "does not hold"),
    ],
)
def test_verdicts(outcome, verdict):
    assert outcome.verdict == verdict


def test_a_run_that_never_reaches_a_threshold_counts_as_one_that_does_at_its_end():
    never = rules.sooner(LOW, np.array([np.inf, 9.0, np.inf]), 20.0, AT_MOST_ONE)
    assert never.value == pytest.approx(5.0 / interquartile_mean(np.array([20.0, 9.0, 20.0])))


def test_a_claim_holds_only_if_all_of_its_rules_do():
    assert together(["holds", "holds"]) == "holds"
    assert together(["holds", "undecided"]) == "undecided"
    assert together(["undecided", "does not hold"]) == "does not hold"


def test_metrics_of_evaluations_are_what_their_names_say():
    evaluation = {
        "return_per_trial": 30.0,
        "mean_trial_length": 60.0,
        "trial_length": 60,
        "n_trials": 10,
        "return_by_quarter": [4.0, 8.0, 9.0, 6.0],
        "env": {"layouts_per_trial": 3},
        "by_steps": {
            "steps": [10.0, 20.0, 30.0, 40.0, 50.0, 60.0],
            "n_episodes": [10, 10, 10, 20, 10, 30],
            "success": [1.0, 1.0, 1.0, 0.5, None, 1.0],
        },
    }
    others = ("success", "memory_bytes", "after_over_before_boundary")
    found = {name: EVALUATED[name](evaluation) for name in EVALUATED if name not in others}
    assert found == {
        "return_per_trial": 30.0,
        "return_per_step": 0.5,
        "last_quarter_over_first": 1.5,
        "last_quarter_over_second": 0.75,
        # In ten trials, ten doors open in steps 31 to 40 and thirty in 51 to 60: 1 and 3 per trial and ten steps.
        "late_in_layout": pytest.approx(20.0),
        "doors_in_last_bin": 3.0,
        "later_success_over_first": (10 + 10 + 10 + 0 + 30) / (10 + 10 + 20 + 10 + 30),
    }


@pytest.mark.parametrize(
    ("ends", "per_trial"),
    [
        # Steps at which an episode ends in each of two trials, and doors in steps 31 to 40 and in 51 to 60.
        ([[35.0, 55.0, 58.0], [25.0, 40.0, 52.0]], (1.0, 1.5)),
        ([[35.0, 36.0], [40.0, 45.0]], (1.5, 0.0)),
        ([[5.0, 45.0], [6.0, 46.0]], (0.0, 0.0)),
    ],
)
def test_a_layout_at_whose_end_no_door_opens_counts_too(ends, per_trial):
    ends = np.array(ends)
    record = TrialRecord(
        rewards=np.zeros((2, 20)),
        lengths=np.array([60, 60]),
        episode_returns=np.ones_like(ends),
        episode_successes=np.ones_like(ends),
        episode_spl=np.full_like(ends, np.nan),
        episode_ends=ends,
    )
    evaluation = {"trial_length": 60, "n_trials": 2, "env": {"layouts_per_trial": 3}, "by_steps": by_steps(record, 10)}
    assert EVALUATED["late_in_layout"](evaluation) == pytest.approx(np.mean(per_trial) * 10)
    assert EVALUATED["doors_in_last_bin"](evaluation) == per_trial[1]


def test_metrics_of_trials_in_which_no_episode_ends_are_none_or_unknown():
    nothing = {"trial_length": 60, "n_trials": 2, "env": {"layouts_per_trial": 3}}
    nothing["by_steps"] = {"steps": [], "n_episodes": []}
    assert EVALUATED["late_in_layout"](nothing) == EVALUATED["doors_in_last_bin"](nothing) == 0.0
    first = {**nothing, "by_steps": {"steps": [10.0], "n_episodes": [2], "success": [1.0]}}
    assert np.isnan(EVALUATED["later_success_over_first"](first))


def test_the_steps_beside_a_boundary_are_those_of_later_segments():
    doors = {9: 7, 11: 7, 14: 9, 15: 2, 19: 2, 20: 9, 21: 1, 25: 1, 29: 2, 31: 1, 35: 2, 36: 9}  # by step
    evaluation = {
        "trial_length": 40,
        "segment_length": 10,
        "by_steps": {"steps": [float(step) for step in doors], "n_episodes": [*doors.values()], "success": [1.0] * 12},
    }
    # The boundaries are after steps 20 and 30, as the one after step 10 ends the first quarter: steps 21 to 25 and
    # 31 to 35 are compared with 15 to 19 and 25 to 29.
    assert EVALUATED["after_over_before_boundary"](evaluation) == pytest.approx((1 + 1 + 1 + 2) / (2 + 2 + 1 + 2))


@pytest.mark.parametrize("segment_length", [10, 15])
def test_doors_that_open_at_every_other_step_are_no_dip_after_boundaries(segment_length):
    steps = range(1, 121)
    evaluation = {
        "trial_length": 120,
        "segment_length": segment_length,
        "by_steps": {"steps": list(steps), "n_episodes": [1 + step % 2 for step in steps], "success": [1.0] * 120},
    }
    assert EVALUATED["after_over_before_boundary"](evaluation) == pytest.approx(1.0)


def test_what_is_lost_at_the_end_of_training_shows():
    rising = {"history": [[k, float(k)] for k in range(1, 21)]}
    lost = {"history": [*rising["history"], *([k, 2.0] for k in range(21, 31))]}
    assert TRAINED["final_over_best"](rising) == pytest.approx(1.0)
    assert TRAINED["final_over_best"](lost) == pytest.approx(2.0 / 19.0)
