"""Shuffled episodes: a valid order, and the same wherever it is computed."""

from itertools import pairwise

import pytest
import torch

from memo_lightning.policies.input_history import InputHistory, shuffle_episodes


@pytest.fixture
def sequences(make_env):
    """Return almost three trials of random steps, [5, 34]; episodes have up to 4 steps, trials 12."""
    torch.manual_seed(0)
    return make_env(5, 0).rollout(34, break_when_any_done=False)


def episodes_of(sequence):
    """Return the trials of a sequence as lists of episodes, each a list of its observations."""
    trials = []
    for step in sequence.unbind(0):
        if step["is_init"]:
            trials.append([[]])
        elif step["episode_end"]:
            trials[-1].append([])
        trials[-1][-1].append((*step["observation", "observation"].tolist(), int(step["action"])))
    return trials


def test_every_trial_keeps_its_episodes_and_its_last_one_in_place(sequences):
    moved = 0
    for before, after in zip(sequences, shuffle_episodes(sequences, seed=2), strict=True):
        for old, new in zip(episodes_of(before), episodes_of(after), strict=True):
            assert sorted(map(tuple, old)) == sorted(map(tuple, new))
            assert old[-1] == new[-1]
            moved += old != new
    assert moved > 5


def test_what_is_said_of_the_step_before_fits_the_new_order(sequences):
    shuffled = shuffle_episodes(sequences, seed=1)
    n_actions = 5
    for sequence in shuffled:
        for before, step in pairwise(sequence):
            if step["is_init"]:
                assert not step["previous_step"].any()
                assert not step["episode_end"]
                continue
            action, reward, end = step["previous_step"].split([n_actions, 1, 1])
            assert action.argmax() == before["action"]
            assert reward == before["next", "reward"]
            assert bool(end) == bool(step["episode_end"]) == bool(before["next", "episode_end"])


def test_order_depends_on_the_seed_alone(sequences):
    assert (shuffle_episodes(sequences, 1) == shuffle_episodes(sequences.clone(), 1)).all()
    assert not (shuffle_episodes(sequences, 1) == shuffle_episodes(sequences, 2)).all()
    inputs = sequences.select("observation", "is_init", "episode_end", "previous_step")
    of_policy, of_learner = shuffle_episodes(inputs, 1), shuffle_episodes(sequences, 1)
    assert (of_policy == of_learner.select(*inputs.keys())).all()


def test_running_trials_are_shuffled_alike_with_and_without_those_before_them(make_env):
    """A learner has whole rollouts; a policy starts over when all environments begin a trial, here every 12 steps."""
    torch.manual_seed(0)
    sequences = make_env(5, 0, trial_length=36).rollout(72, break_when_any_done=False)
    for n_steps in (48, 60, 72):
        whole, running = (
            shuffle_episodes(sequences[:, :n_steps], 1)[:, 36:],
            shuffle_episodes(sequences[:, 36:n_steps], 1),
        )
        assert (whole == running).all()
        assert not (running == sequences[:, 36:n_steps]).all()


def test_all_orders_are_as_likely(sequences):
    trial = sequences[:1, :12]
    first = [episodes_of(shuffle_episodes(trial, seed)[0])[0][0] for seed in range(600)]
    episodes = episodes_of(trial[0])[0]
    counts = [first.count(episode) for episode in episodes[:-1]]
    assert sum(counts) == 600
    expected = 600 / len(counts)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts)


def test_history_goes_on_from_the_order_it_gave(sequences):
    history = InputHistory(shuffle_episodes=True)
    for step in sequences[:, :20].unbind(1):
        history.append(step)
    once = history.sequences(seed=1)
    assert (once == shuffle_episodes(sequences[:, :20], 1)).all()
    for step in sequences[:, 20:].unbind(1):
        history.append(step)
    twice = history.sequences(seed=2)
    assert (twice == shuffle_episodes(torch.cat([once, sequences[:, 20:]], 1), 2)).all()
    history.clear()
    history.append(sequences[:, 0])
    assert history.sequences(seed=3).shape == (5, 1)


def test_history_keeps_the_order_where_it_is_not_to_be_shuffled(sequences):
    history = InputHistory(shuffle_episodes=False)
    for step in sequences.unbind(1):
        history.append(step)
    assert (history.sequences(seed=1) == sequences).all()


def test_history_holds_what_it_shares_and_no_copy(sequences):
    history = InputHistory(shuffle_episodes=False)
    for step in sequences[:, :20].unbind(1):
        history.append(step)
    assert history.n_steps == 20
    history.share(sequences[:, :20])
    assert history.sequences(seed=1)["observation", "observation"].data_ptr() == (
        sequences["observation", "observation"].data_ptr()
    )
    for step in sequences[:, 20:].unbind(1):
        history.append(step)
    assert (history.sequences(seed=2) == sequences).all()
