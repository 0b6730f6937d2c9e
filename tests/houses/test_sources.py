import numpy as np
import pytest

from memo_lightning.errors import UserError
from memo_lightning.houses import GeneratedSource, HouseSpec, build_navigator
from memo_lightning.houses.episode_file import StoredPlacement
from memo_lightning.houses.sources import StoredSource, generated_source

SMALL = {"n_houses": 2, "n_placements": 2, "n_episodes": 3, "min_rooms": 2, "max_rooms": 3}


def scene_ids(source):
    return [source.scene_id(index) for index in range(source.n_placements)]


def test_held_out_houses_are_other_houses():
    train, held_out = GeneratedSource("train"), GeneratedSource("held_out")
    assert (train.n_placements, len(set(scene_ids(train)))) == (37 * 300, 37)
    assert (held_out.n_placements, len(set(scene_ids(held_out)))) == (12 * 300, 12)
    assert not set(scene_ids(train)) & set(scene_ids(held_out))


def test_held_out_placements_are_others_in_the_same_houses():
    train, others = GeneratedSource("train", **SMALL), GeneratedSource("held_out_placements", **SMALL)
    assert scene_ids(train) == scene_ids(others)
    assert train.placement(0).objects != others.placement(0).objects
    largest = GeneratedSource("train", n_houses=1, n_placements=100_000)
    assert largest.placement(99_999).index < others.placement(0).index


def test_the_same_episodes_are_drawn_every_time_and_the_placement_is_kept():
    a, b = GeneratedSource(**SMALL), GeneratedSource(**SMALL)
    starts = [a.start(index, number) for index in range(4) for number in range(3)]
    assert starts == [b.start(index, number) for index in range(4) for number in range(3)]
    assert len(set(starts)) == 12
    assert a.placement(1) is a.placement(1)


def test_goals_are_reachable_and_not_yet_reached_at_the_start():
    source = GeneratedSource("held_out", n_placements=1)
    for index in range(source.n_placements):
        placement = source.placement(index)
        navigator = build_navigator(HouseSpec.from_scene_id(placement.scene_id))
        for number in range(10):
            start = source.start(index, number)
            field = navigator.field([placed.goal for placed in placement.instances(start.goal)])
            assert 3.0 <= field.distance(start.x, start.z) < np.inf


def test_stored_episodes_begin_again_after_the_last():
    drawn = GeneratedSource(**SMALL)
    starts = tuple(drawn.start(0, number) for number in range(3))
    source = StoredSource(
        [StoredPlacement(drawn.placement(0), starts), StoredPlacement(drawn.placement(1), starts[:2])]
    )
    assert (source.n_placements, source.episodes_per_placement) == (2, 2)
    assert [source.start(0, number) for number in range(6)] == [*starts, *starts]
    assert source.placement(1) == drawn.placement(1)
    assert source.scene_id(0) == drawn.scene_id(0)


@pytest.mark.parametrize(
    ("split", "options", "complaint"),
    [
        ("test", {}, "split='test': must be one of train"),
        ("held_out", {"n_houses": 13}, "n_houses=13: must be between 1 and 12"),
        ("train", {"n_placements": 100_001}, "n_placements=100001"),
        ("train", {"n_types": 21}, "n_types=21"),
        ("train", {"n_types": 5, "n_objects": 4}, "n_objects=4"),
        ("train", {"min_rooms": 4, "max_rooms": 3}, "max_rooms=3"),
        ("train", {"rooms": 4}, "dataset option='rooms': must be one of n_houses"),
    ],
)
def test_bad_options_are_named(split, options, complaint):
    with pytest.raises(UserError, match=complaint):
        generated_source(split, options)
