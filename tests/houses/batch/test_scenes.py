import numpy as np
import pytest

from memo_lightning.houses import GeneratedSource, HouseSpec, build_navigator
from memo_lightning.houses.batch.scenes import ScenePool
from memo_lightning.houses.batch.threads import Threads
from memo_lightning.houses.placement import TYPE_NUMBERS

SMALL = {"n_houses": 2, "n_placements": 60, "min_rooms": 1, "max_rooms": 2, "n_types": 2, "n_objects": 3}


@pytest.mark.parametrize("n_threads", [1, 3])
def test_distances_from_the_corners_are_those_of_the_navigator(n_threads):
    source = GeneratedSource("train", n_houses=3, n_placements=1)
    pool = ScenePool(source, 3, Threads(n_threads))
    for index, place in enumerate(pool.take(range(3))):
        placement = source.placement(index)
        navigator = build_navigator(HouseSpec.from_scene_id(placement.scene_id))
        n = len(navigator.corners)
        by_instance = dict(
            zip(pool.arrays.goal_instance[place].tolist(), pool.arrays.to_goal[place, :, :n], strict=True)
        )
        for name in placement.types:
            goals = placement.instances(name)
            nearest = navigator.field([placed.goal for placed in goals])._to_goal
            np.testing.assert_array_equal(pool.arrays.to_type[place, TYPE_NUMBERS[name] - 1, :n], nearest)
            for placed in goals:
                expected = navigator.field([placed.goal])._to_goal
                np.testing.assert_array_equal(by_instance[placed.instance], expected)


def test_placements_are_packed_once_while_they_are_used_and_the_oldest_gives_way():
    source = GeneratedSource("train", **SMALL)
    pool = ScenePool(source, 2, Threads(1))
    (first,), (again,) = pool.take([5]), pool.take([5])
    assert first == again
    for index in range(6, 120):
        (place,) = pool.take([index])
        assert place != first, "it is in use"
        pool.give_back(place)
        assert pool.placement(place) == source.placement(index)
    assert len(pool) == 66
    assert pool.placement(first) == source.placement(5)
    assert pool.arrays.shape.nbytes < 10e6
