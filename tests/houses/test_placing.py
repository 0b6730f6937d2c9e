from collections import Counter

import numpy as np
import pytest

from memo_lightning.errors import UserError
from memo_lightning.houses import OBJECT_TYPES, REFERENCE_CAMERA, HouseSpec, View, build_house, build_navigator
from memo_lightning.houses.object_types import MAX_HEIGHT
from memo_lightning.houses.placement import PlacementSpec
from memo_lightning.houses.placing import draw_placement
from memo_lightning.houses.shapes import concatenate

SPECS = [PlacementSpec(HouseSpec(seed), index) for seed, index in ((0, 0), (1, 5), (2, 0), (30, 299))]
RADIUS = {object_type.name: object_type.radius for object_type in OBJECT_TYPES}


@pytest.fixture(scope="module", params=SPECS, ids=str)
def spec(request):
    return request.param


@pytest.fixture(scope="module")
def placement(spec):
    return draw_placement(spec)


def test_thirty_objects_of_all_twenty_types(placement):
    counts = Counter(placed.type for placed in placement.objects)
    assert len(placement.objects) == 30
    assert len(counts) == 20
    assert [placed.instance for placed in placement.objects] == list(range(1, 31))


def test_the_same_seed_gives_the_same_placement_and_another_index_another(spec, placement):
    assert draw_placement(spec) == placement
    assert draw_placement(PlacementSpec(spec.house, spec.index + 1)) != placement


def test_every_object_is_seen_from_near_its_goal(spec, placement):
    solids = concatenate(build_house(spec.house).arrays, placement.arrays)
    navigator = build_navigator(spec.house)
    for placed in placement.objects:
        view = View(placed.view, solids)
        assert np.count_nonzero(view.semantic(REFERENCE_CAMERA) == placed.instance) >= 10
        assert navigator.field([placed.goal]).distance(placed.view.x, placed.view.z) < 2.0


def test_objects_do_not_overlap(placement):
    for a in placement.objects:
        for b in placement.objects:
            if a.instance < b.instance:
                distance = np.hypot(a.position[0] - b.position[0], a.position[2] - b.position[2])
                apart = abs(a.position[1] - b.position[1]) >= MAX_HEIGHT
                assert apart or distance > RADIUS[a.type] + RADIUS[b.type] or a.room != b.room


def test_every_object_stands_on_something(spec, placement):
    house = build_house(spec.house)
    n_on_furniture = 0
    for placed in placement.objects:
        x, y, z = (100 * value for value in placed.position)
        under = [
            stand
            for stand in house.stands
            if stand.height == pytest.approx(y)
            and stand.area.x0 <= x <= stand.area.x1
            and stand.area.z0 <= z <= stand.area.z1
        ]
        assert under or y == 0
        n_on_furniture += bool(under)
    assert 10 <= n_on_furniture <= 29


def test_the_goal_is_the_nearest_place_of_the_room_to_stand(spec, placement):
    house = build_house(spec.house)
    for placed in placement.objects:
        points = house.roomy_points(placed.room)
        to_object = np.linalg.norm(points - np.array(placed.position)[[0, 2]], axis=1)
        to_goal = np.hypot(placed.goal[0] - placed.position[0], placed.goal[1] - placed.position[2])
        assert to_goal == pytest.approx(to_object.min())


def test_objects_that_cannot_be_found_are_rejected_and_counted():
    placements = [draw_placement(PlacementSpec(HouseSpec(seed), 0)) for seed in range(6)]
    assert sum(placement.n_rejected for placement in placements) > 0


def test_a_type_without_an_instance_is_an_error_that_names_those_there_are():
    placement = draw_placement(PlacementSpec(HouseSpec(1, 2, 3), 0, n_types=2, n_objects=3))
    assert placement.types == ("ball", "vase")
    with pytest.raises(UserError, match=r"'duck' has no instance .*ball, vase"):
        placement.instances("duck")


def test_too_many_objects_for_a_house_is_an_error():
    with pytest.raises(UserError, match="n_objects=100: must be lower, or min_rooms higher, as house-1to1rooms-000000"):
        draw_placement(PlacementSpec(HouseSpec(0, 1, 1), 0, n_types=20, n_objects=100))


def test_where_the_first_objects_leave_no_room_others_are_drawn():
    placement = draw_placement(PlacementSpec(HouseSpec(28, 1, 2), 0))
    assert len(placement.objects) == 30


def test_every_object_type_has_a_look_of_its_own():
    assert len({object_type.solids for object_type in OBJECT_TYPES}) == 20
    for object_type in OBJECT_TYPES:
        heights = [solid.centre[1] + solid.size[1] for solid in object_type.solids]
        depths = [solid.centre[1] - solid.size[1] for solid in object_type.solids]
        assert 0.1 < max(heights) <= MAX_HEIGHT + 1e-9
        assert min(depths) >= -1e-9
