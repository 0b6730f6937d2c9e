from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from memo_lightning.houses import HouseSpec, build_house, build_navigator
from memo_lightning.houses.floor_plan import LATTICE, Rect
from memo_lightning.houses.navigation import Navigator

SPEC = HouseSpec(2)
RADIUS, HEIGHT, CLIMB = 0.2, 1.25, 0.1  # of the agent, metres


@pytest.fixture(scope="module")
def navigator():
    return build_navigator(SPEC)


def in_a_hall(*obstacles):
    """Return the navigator of a hall of 10 by 10 metres with obstacles, given in centimetres."""
    walls = [Rect(-10, -10, 0, 1010), Rect(1000, -10, 1010, 1010), Rect(-10, -10, 1010, 0), Rect(-10, 1000, 1010, 1010)]
    plan = SimpleNamespace(bounds=Rect(-10, -10, 1010, 1010))
    return Navigator(SimpleNamespace(plan=plan, obstacles=(*walls, *obstacles), roomy=np.ones((1, 1), bool)))


def grid_distances(free, start, side=LATTICE / 100):
    """Return distances in metres on a grid, with moves of up to 3 squares that stay on free squares."""
    steps = [(a, b) for a in range(-3, 4) for b in range(-3, 4) if np.gcd(a, b) == 1]
    number = -np.ones(free.shape, int)
    number[free] = np.arange(free.sum())
    rows, columns, lengths = [], [], []
    for a, b in steps:
        n = 4 * max(abs(a), abs(b))
        ok = free.copy()
        for k in range(1, n + 1):  # every square on the way
            shift = (round(a * k / n), round(b * k / n))
            ok &= np.roll(free, (-shift[0], -shift[1]), (0, 1))
        i, j = np.nonzero(ok)
        rows.append(number[i, j])
        columns.append(number[i + a, j + b])
        lengths.append(np.full(len(i), np.hypot(a, b) * side))
    edges = coo_matrix((np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))))
    return dijkstra(edges.tocsr(), indices=number[start])


def test_distances_agree_with_those_over_a_fine_grid(navigator):
    free = build_house(SPEC).free
    squares = np.argwhere(free)
    start = squares[len(squares) // 3]
    expected = grid_distances(free, tuple(start))
    points = (LATTICE * squares[:, ::-1] + LATTICE / 2) / 100
    field = navigator.field([tuple(points[len(squares) // 3])])
    exact = np.array([field.distance(*point) for point in points[::7]])
    expected = expected[::7]
    # A grid path is a valid path, so it is never shorter (except for the skin at corners), and not much longer.
    assert (exact <= expected + 0.03).all()
    assert (expected <= 1.04 * exact + 0.12).all()


def free_of_what_is_seen(house, side):
    """Return bool ``[nz, nx]``: points with no obstacle closer than the agent's radius.

    Computed on a one-centimetre raster from the rendered solids instead of the blocking rectangles.
    """
    bounds, middle, half = house.plan.bounds, house.arrays.shape[:, :3], house.arrays.shape[:, 3:6]
    low, high = middle - half, middle + half
    blocks = (low[:, 1] < HEIGHT) & (high[:, 1] > CLIMB)
    solid = np.zeros((bounds.depth, bounds.width), bool)
    for (x0, _, z0), (x1, _, z1) in np.rint(100 * np.stack([low, high], axis=1)[blocks]).astype(int):
        solid[z0 - bounds.z0 : z1 - bounds.z0, x0 - bounds.x0 : x1 - bounds.x0] = True
    clearance = (ndimage.distance_transform_edt(~solid) - 0.5) / 100
    step = round(100 * side)
    return clearance[step // 2 :: step, step // 2 :: step] > RADIUS


@pytest.mark.parametrize("seed", [0, 1, 100_000, 100_001])
def test_distances_agree_with_those_between_the_solids_that_are_seen(seed):
    """Uses the four houses in which distances were also compared with those on habitat-sim's mesh."""
    side = 0.02
    house, navigator = build_house(HouseSpec(seed)), build_navigator(HouseSpec(seed))
    free = free_of_what_is_seen(house, side)
    rng = np.random.default_rng(seed)
    points = [navigator.sample(rng) for _ in range(200)]
    squares = [tuple(((np.array(point) - navigator.lower) / side).astype(int)[::-1]) for point in points]
    number = np.cumsum(free).reshape(free.shape) - 1
    expected = grid_distances(free, squares[0], side)[[number[square] for square in squares]]
    found = np.array([navigator.field(points[:1]).distance(*point) for point in points])
    gaps = np.abs(found - expected)
    assert np.mean(gaps <= np.maximum(0.05 * expected, 0.15)) >= 0.95
    assert np.median(gaps) <= 0.1


@pytest.mark.parametrize("gap", [(30, 30), (35, 20), (10, 40), (30, 40), (25, 30), (15, 35), (40, 0), (45, 0)], ids=str)
def test_between_two_corners_the_agent_passes_if_they_are_farther_apart_than_it_is_wide(gap):
    """The squares around both corners overlap or touch in all cases except the last."""
    x, z = 500 + gap[0], 500 + gap[1]
    navigator = in_a_hall(Rect(0, 0, 500, 500), Rect(x, z, 1000, 1000))
    across = np.array([gap[1], -gap[0]]) / np.hypot(*gap)
    middle = np.array([500 + x, 500 + z]) / 200
    start, end = middle - across, middle + across
    distance = navigator.field([tuple(end)]).distance(*start)
    is_open = np.hypot(*gap) > 200 * RADIUS
    assert distance == (pytest.approx(2.0) if is_open else np.inf)
    for _ in range(8):
        start[0], start[1], _ = navigator.move(*start, *(0.25 * across))
    assert (np.linalg.norm(start - end) < 0.02) == is_open


def test_the_way_around_a_box_is_that_of_a_string_around_its_rounded_corners():
    navigator = in_a_hall(Rect(400, 300, 600, 700))
    for down in (0.5, 1.0, 1.5):  # metres below the upper side, 1.5 from the left side, and then from the right
        away = np.hypot(down, 1.5)
        arc = RADIUS * (np.arctan2(down, 1.5) + np.arcsin(RADIUS / away))
        exact = 2 * (np.sqrt(away**2 - RADIUS**2) + arc) + 2.0
        found = navigator.field([(7.5, 3.0 + down)]).distance(2.5, 3.0 + down)
        assert found == pytest.approx(exact, abs=0.01)


def test_an_agent_that_walks_into_a_corner_slides_along_its_arc():
    navigator = in_a_hall(Rect(500, 500, 1000, 1000))
    corner, step = np.array([5.0, 5.0]), np.array([0.0, 0.25])
    for aside in (0.01, 0.08, 0.15):
        start = corner - np.array([aside, 0.3])
        there = np.array(navigator.move(*start, *step)[:2])
        # The agent goes straight until it meets the arc, then spends the rest of the step along the tangent.
        met = corner - np.array([aside, np.sqrt(RADIUS**2 - aside**2)])
        tangent = np.array([met[1] - corner[1], corner[0] - met[0]]) / RADIUS
        left = step - (met - start)
        np.testing.assert_allclose(there, met + (left @ tangent) * tangent, atol=5e-3)
        assert np.linalg.norm(there - corner) > RADIUS


def test_the_path_is_as_long_as_the_distance_and_free_but_for_what_it_cuts_from_arcs(navigator):
    rng = np.random.default_rng(0)
    for _ in range(50):
        start, end = navigator.sample(rng), navigator.sample(rng)
        field = navigator.field([end])
        path = np.array(field.path(*start))
        assert np.linalg.norm(np.diff(path, axis=0), axis=1).sum() == pytest.approx(field.distance(*start))
        for a, b in pairwise(path):
            for t in np.linspace(0, 1, 25):
                assert navigator.clearance(*(a + t * (b - a))) > -0.004
        np.testing.assert_allclose(path[[0, -1]], [start, end])


def test_distance_is_to_the_nearest_goal_and_symmetric(navigator):
    rng = np.random.default_rng(1)
    points = [navigator.sample(rng) for _ in range(6)]
    for here in points[3:]:
        single = [navigator.field([goal]).distance(*here) for goal in points[:3]]
        assert navigator.field(points[:3]).distance(*here) == pytest.approx(min(single))
        assert navigator.field([here]).distance(*points[0]) == pytest.approx(single[0])


def test_goals_and_starts_that_nobody_can_reach_are_infinitely_far(navigator):
    inside_a_wall = (0.05, 0.05)
    free = navigator.sample(np.random.default_rng(2))
    assert navigator.field([inside_a_wall]).distance(*free) == np.inf
    assert navigator.field([inside_a_wall]).path(*free) == []
    assert navigator.field([free]).distance(*inside_a_wall) == np.inf


def test_walking_never_enters_an_obstacle_and_slides_along_it(navigator):
    rng = np.random.default_rng(3)
    n_collisions = n_slides = 0
    for _ in range(30):
        x, z = navigator.sample(rng)
        for _ in range(60):
            angle = rng.uniform(0, 2 * np.pi)
            dx, dz = 0.25 * np.cos(angle), 0.25 * np.sin(angle)
            new_x, new_z, collided = navigator.move(x, z, dx, dz)
            moved = np.hypot(new_x - x, new_z - z)
            assert navigator.is_free(new_x, new_z)
            assert moved <= 0.25 + 1e-9
            if collided:
                n_collisions += 1
                n_slides += moved > 0.05
                assert (new_x - x) * dx + (new_z - z) * dz >= -1e-2
            else:
                assert moved == pytest.approx(0.25)
            x, z = new_x, new_z
    assert n_collisions > 100
    assert n_slides > 50


def test_clearance_is_the_room_to_move_in_every_direction(navigator):
    rng = np.random.default_rng(4)
    for _ in range(20):
        x, z = navigator.sample(rng)
        clearance = navigator.clearance(x, z)
        angles = np.linspace(0, 2 * np.pi, 400)
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        assert all(navigator.is_free(*(np.array([x, z]) + 0.999 * clearance * d)) for d in ring)
        assert not all(navigator.is_free(*(np.array([x, z]) + (clearance + 0.005) * d)) for d in ring)


def test_the_map_shows_where_points_are_free(navigator):
    metres = 0.037
    image = navigator.free_map(metres)
    rng = np.random.default_rng(5)
    (x0, z0), (x1, z1) = navigator.lower, navigator.upper
    agree = []
    for _ in range(2000):
        x, z = rng.uniform(x0, x1), rng.uniform(z0, z1)
        row, column = (
            int((z - z0) / (z1 - z0) * image.shape[0]),
            int((x - x0) / (x1 - x0) * image.shape[1]),
        )
        agree.append(image[row, column] == navigator.is_free(x, z))
    assert np.mean(agree) > 0.96
