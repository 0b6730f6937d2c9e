import numpy as np
import pytest
from scipy import ndimage

from memo_lightning.errors import UserError
from memo_lightning.houses import HouseSpec, build_house, build_navigator
from memo_lightning.houses.floor_plan import LATTICE, MIN_ROOM_SIDE, WALL, Rect
from memo_lightning.houses.furnishing import AGENT_RADIUS
from memo_lightning.houses.house import House

SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_seed_builds_the_same_house(seed):
    a, b = House(HouseSpec(seed)), House(HouseSpec(seed))
    assert a.solids == b.solids
    assert a.obstacles == b.obstacles


def test_different_seeds_build_different_houses():
    assert len({build_house(HouseSpec(seed)).solids for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_rooms_tile_the_house_and_their_number_is_in_range(seed):
    plan = build_house(HouseSpec(seed, 3, 6)).plan
    assert 3 <= len(plan.rooms) <= 6
    assert sum(room.width * room.depth for room in plan.rooms) == plan.bounds.width * plan.bounds.depth
    assert not any(a.overlaps(b) for a in plan.rooms for b in plan.rooms if a is not b)
    assert min(min(room.width, room.depth) for room in plan.rooms) >= MIN_ROOM_SIDE


@pytest.mark.parametrize("seed", SEEDS)
def test_all_free_floor_is_connected_and_reaches_every_room(seed):
    house = build_house(HouseSpec(seed))
    assert ndimage.label(house.free)[1] == 1
    for room in range(len(house.plan.rooms)):
        assert len(house.roomy_points(room)) > 100


@pytest.mark.parametrize("seed", SEEDS)
def test_around_roomy_points_everything_is_free(seed):
    house = build_house(HouseSpec(seed))
    navigator = build_navigator(house.spec)
    for room in range(len(house.plan.rooms)):
        for x, z in house.roomy_points(room)[::50]:
            assert navigator.clearance(x, z) >= 1.5 * LATTICE / 100 - 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_free_squares_are_those_that_a_disc_of_the_agents_radius_fits_around(seed):
    """Checked on a half-centimetre raster that contains the centres of the squares."""
    house = build_house(HouseSpec(seed))
    bounds = house.plan.bounds
    empty = np.ones((2 * bounds.depth + 1, 2 * bounds.width + 1), bool)
    for area in house.obstacles:
        z, x = 2 * (area.z0 - bounds.z0), 2 * (area.x0 - bounds.x0)
        empty[z : z + 2 * area.depth + 1, x : x + 2 * area.width + 1] = False
    middles = ndimage.distance_transform_edt(empty)[LATTICE :: 2 * LATTICE, LATTICE :: 2 * LATTICE] > 2 * AGENT_RADIUS
    np.testing.assert_array_equal(house.free & ~middles, False)
    pockets = middles & ~house.free  # unreachable
    assert pockets.sum() < 10
    assert not (ndimage.binary_dilation(pockets) & house.free).any()


def in_front_of(door):
    area = door.opening
    if area.depth == 2 * WALL:
        return Rect(area.x0, area.z0 - 80, area.x1, area.z1 + 80)
    return Rect(area.x0 - 80, area.z0, area.x1 + 80, area.z1)


@pytest.mark.parametrize("seed", SEEDS)
def test_furniture_stands_in_its_room_and_in_nobodys_way(seed):
    house = build_house(HouseSpec(seed))
    assert len(house.pieces) >= 2 * len(house.plan.rooms)
    for k, piece in enumerate(house.pieces):
        assert house.plan.rooms[piece.room].grown(-WALL).contains(piece.footprint)
        assert not any(piece.footprint.overlaps(other.footprint) for other in house.pieces[:k])
        assert not any(piece.footprint.overlaps(in_front_of(door)) for door in house.plan.doors)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_part_of_the_furniture_is_within_its_footprint(seed):
    for piece in build_house(HouseSpec(seed)).pieces:
        area = piece.footprint
        for solid in piece.solids:
            (x, _, z), (a, _, b) = solid.centre, solid.size
            assert area.x0 - 1e-6 <= 100 * (x - a) <= 100 * (x + a) <= area.x1 + 1e-6
            assert area.z0 - 1e-6 <= 100 * (z - b) <= 100 * (z + b) <= area.z1 + 1e-6


def test_a_scene_id_names_its_house():
    spec = HouseSpec(123, 2, 3)
    assert HouseSpec.from_scene_id(spec.scene_id) == spec


@pytest.mark.parametrize("scene_id", ["apartment_1.glb", "", "house-5to8rooms-17", "house-0to8rooms-000017"])
def test_a_missing_scene_is_named(scene_id):
    with pytest.raises(UserError, match="must be"):
        HouseSpec.from_scene_id(scene_id)
