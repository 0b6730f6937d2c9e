"""Statistics of trials compared with counting by hand, and intervals compared with theory."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from memo_lightning.data.trial_record import TrialRecord
from memo_lightning.evaluation.in_context import bin_steps_that_fit, by_steps, estimate_mean, reward_per_step


@pytest.fixture
def rollout(make_env, make_policy):
    env = make_env(5, 0)
    return env.rollout(31, make_policy(env), break_when_any_done=False)  # two trials of 12 and part of a third


def test_trials_are_counted_as_by_hand(rollout):
    record = TrialRecord.of(rollout, n_bins=4)
    trials = [rollout[row, start : start + 12] for row in range(5) for start in (0, 12)]
    assert len(record.returns) == 10, "the part of a third trial does not count"
    assert (record.lengths == 12).all()
    for index, trial in enumerate(trials):
        rewards = trial["next", "reward"].flatten()
        assert record.rewards[index].tolist() == [rewards[3 * k : 3 * k + 3].sum().item() for k in range(4)]
        ends = trial["next", "episode_end"].flatten()
        returns = trial["next", "episode_return"].flatten()[ends].tolist()
        successes = trial["next", "success"].flatten()[ends].tolist()
        assert record.episode_returns[index][: len(returns)].tolist() == returns
        assert np.isnan(record.episode_returns[index][len(returns) :]).all()
        assert record.episode_successes[index][: len(returns)].tolist() == successes
    np.testing.assert_allclose(record.by_part(2).sum(1), record.returns)


def test_short_trials_are_not_seen_too_often():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.where(torch.rand(4000, 10, generator=generator) < 0.5, 2, 10)  # half of the trials are long
    ends = torch.zeros(4000, 100, dtype=torch.bool)
    ends.scatter_(1, lengths.cumsum(1) - 1, True)
    ends = ends[:, :25]
    starts = torch.cat([torch.ones_like(ends[:, :1]), ends[:, :-1]], 1)
    flags = {name: ends.unsqueeze(-1) for name in ("done", "episode_end", "success")}
    values = {name: torch.ones(4000, 25, 1) for name in ("reward", "episode_return")}
    rollout = TensorDict({"is_init": starts.unsqueeze(-1), "next": {**flags, **values}}, (4000, 25))
    assert TrialRecord.of(rollout).lengths.mean() < 5.7
    assert TrialRecord.of(rollout, longest=10).lengths.mean() == pytest.approx(6, abs=0.1)


def test_episodes_are_counted_in_the_steps_in_which_they_end(rollout):
    spl = torch.rand_like(rollout["next", "reward"])
    rollout["next", "measures", "spl"] = spl
    record = TrialRecord.of(rollout)
    expected = {"n_episodes": [0, 0, 0], "success": [0.0, 0.0, 0.0], "spl": [0.0, 0.0, 0.0]}
    for row in range(5):
        for step in range(24):
            if rollout["next", "episode_end"][row, step]:
                k = (step % 12) // 5
                expected["n_episodes"][k] += 1
                expected["success"][k] += float(rollout["next", "success"][row, step])
                expected["spl"][k] += float(spl[row, step])
    table = by_steps(record, 5)
    assert table["steps"] == [5, 10, 12]
    assert table["n_episodes"] == expected["n_episodes"]
    for name in ("success", "spl"):
        np.testing.assert_allclose(table[name], np.divide(expected[name], expected["n_episodes"]))


def test_a_stretch_without_the_end_of_an_episode_has_no_success_and_no_report_means_no_spl(rollout):
    table = by_steps(TrialRecord.of(rollout), 1)
    assert table["success"][0] is None
    assert "spl" not in table


def test_records_of_different_width_are_joined(rollout):
    whole, half = TrialRecord.of(rollout), TrialRecord.of(rollout[:2])
    joined = TrialRecord.concatenate([half, whole])
    assert len(joined.returns) == 14
    np.testing.assert_array_equal(joined.returns[4:], whole.returns)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    estimate = estimate_mean(rng.normal(3.0, 2.0, size=(60, 300)))
    covered = (estimate.low <= 3.0) & (estimate.high >= 3.0)
    assert 0.88 <= covered.mean() <= 0.99
    np.testing.assert_allclose((estimate.high - estimate.low).mean(), 2 * 1.96 * 2 / np.sqrt(60), rtol=0.1)


def test_interval_leaves_out_missing_episodes():
    values = np.array([[1.0, np.nan], [3.0, 5.0], [2.0, np.nan]])
    estimate = estimate_mean(values)
    assert estimate.mean.tolist() == [2.0, 5.0]
    single = estimate_mean(values[:1, :1])
    assert (single.low, single.high) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("trial_length", "episode_length", "bin_steps"),
    [(200, 20, 20), (500, 50, 50), (800, 20, 80), (4096, 500, 500), (101, 101, 101), (200, 500, 200), (60, None, 15)],
)
def test_bins_hold_whole_episodes_and_are_at_most_ten(trial_length, episode_length, bin_steps):
    ends = np.arange(15, trial_length + 1, 15)[None].repeat(3, 0).astype(float)
    record = TrialRecord(np.zeros((3, 20)), np.full(3, trial_length), *([np.ones(ends.shape)] * 3), ends)
    assert bin_steps_that_fit([record], episode_length) == bin_steps
    assert -(-trial_length // bin_steps) <= 10


def test_no_bin_is_empty_at_the_default(make_env, make_policy):
    env = make_env(5, 0, trial_length=30, episode_length=7)
    record = TrialRecord.of(env.rollout(30, make_policy(env), break_when_any_done=False))
    table = by_steps(record, bin_steps_that_fit([record], 7))
    assert len(table["steps"]) > 3
    assert min(table["n_episodes"]) > 0


def test_reward_per_step_is_that_of_the_steps_in_each_part_also_of_trials_shorter_than_the_parts():
    reward = torch.arange(12.0).expand(4, 12).unsqueeze(-1)
    flags = {name: torch.zeros(4, 12, 1, dtype=torch.bool) for name in ("done", "episode_end", "success")}
    flags["done"][:, -1] = True
    steps = {"is_init": torch.zeros(4, 12, 1, dtype=torch.bool), "next": {**flags, "reward": reward}}
    steps["next"]["episode_return"] = reward
    rollout = TensorDict(steps, (4, 12))
    centres, estimate = reward_per_step(TrialRecord.of(rollout, n_bins=20))
    assert centres.tolist() == [step + 0.5 for step in range(12)]
    assert estimate.mean.tolist() == list(range(12))
    centres, estimate = reward_per_step(TrialRecord.of(rollout, n_bins=8))  # alternately of one and two steps
    assert estimate.mean.tolist() == [0.5, 2, 3.5, 5, 6.5, 8, 9.5, 11]
