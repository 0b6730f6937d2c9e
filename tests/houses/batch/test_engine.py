import numpy as np
import pytest

from memo_lightning.errors import UserError
from memo_lightning.houses import GeneratedSource, Start
from memo_lightning.houses.batch import BatchedTrials
from memo_lightning.houses.batch.threads import Threads
from memo_lightning.houses.columns import columns_camera

SMALL = {"n_houses": 2, "n_placements": 4, "min_rooms": 2, "max_rooms": 3, "n_types": 4, "n_objects": 5}
SOURCE = GeneratedSource("train", **SMALL)


def trials_of(n, source=SOURCE, **options):
    return BatchedTrials(source, n, 20, ("rgb", "depth", "columns"), columns=columns_camera(8), **options)


def record(trials, actions):
    """Return all values of every step, ``[T, N, ...]`` by name."""
    steps = []
    for action in actions:
        trials.step(action)
        agents = trials.agents
        results = {name: getattr(agents, name).copy() for name in ("reward", "over", "spl", "distance", "position")}
        trials.begin_episodes(np.flatnonzero(agents.over))
        trials.observe()
        steps.append({**results, **{name: value.copy() for name, value in trials.observations.items()}})
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


def test_wherever_an_agent_walks_there_is_a_way_to_its_goal():
    """This includes places where the agent got stuck between two obstacles."""
    source, rng = GeneratedSource("train", n_placements=1), np.random.default_rng(0)
    trials = BatchedTrials(source, source.n_placements, 1000, ())
    trials.begin_trials(np.arange(source.n_placements), range(source.n_placements))
    for _ in range(600):
        trials.step(rng.choice([1, 1, 1, 2, 3], source.n_placements))
        assert np.isfinite(trials.agents.distance).all()


def test_a_row_depends_neither_on_the_rows_beside_it_nor_on_the_number_of_threads():
    rng = np.random.default_rng(0)
    actions = rng.choice(6, (60, 6), p=[0.05, 0.5, 0.15, 0.15, 0.08, 0.07])
    many, one = trials_of(6, n_threads=3), trials_of(1)
    many.begin_trials(np.arange(6), [3, 1, 4, 1, 5, 6])
    together = record(many, actions)
    for row, placement in ((0, 3), (3, 1), (5, 6)):
        one.begin_trials(np.array([0]), [placement])
        alone = record(one, actions[:, [row]])
        for name, value in alone.items():
            np.testing.assert_array_equal(value[:, 0], together[name][:, row], err_msg=name)


def test_beginning_trials_in_some_rows_leaves_the_others_as_they_are():
    actions = np.random.default_rng(1).integers(1, 6, (30, 3))
    undisturbed, disturbed = trials_of(3), trials_of(3)
    for trials in (undisturbed, disturbed):
        trials.begin_trials(np.arange(3), [0, 1, 2])
        record(trials, actions[:10])
    disturbed.begin_trials(np.array([1]), [7])
    a, b = record(undisturbed, actions[10:]), record(disturbed, actions[10:])
    for name in a:
        np.testing.assert_array_equal(a[name][:, [0, 2]], b[name][:, [0, 2]])
    assert (a["position"][:, 1] != b["position"][:, 1]).any()


class Misplaced:
    """The original placements, but with episodes that begin inside a wall or off the floor."""

    def __init__(self, x, y):
        self._x, self._y = x, y

    def __getattr__(self, name):
        return getattr(SOURCE, name)

    def start(self, index, number):
        start = SOURCE.start(index, number)
        return Start(start.x if self._x is None else self._x, start.z, start.heading, start.goal, self._y)


@pytest.mark.parametrize(("x", "y"), [(0.05, 0.0), (None, 0.7)])
def test_a_start_where_nobody_can_stand_is_named(x, y):
    trials = trials_of(1, Misplaced(x, y))
    with pytest.raises(UserError, match=r"start_position=\[.*\]: must be a navigable point of house-2to3rooms"):
        trials.begin_trials(np.array([0]), [0])


@pytest.mark.parametrize("n_threads", [0, -1])
def test_there_must_be_a_thread(n_threads):
    with pytest.raises(UserError, match=f"n_threads={n_threads}: must be at least 1"):
        Threads(n_threads)


def test_what_goes_wrong_in_a_thread_is_raised():
    def kernel(first, stride):
        if first == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Threads(3).run(kernel)
