from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from memo_lightning.houses import HouseSpec, build_house, build_navigator
from memo_lightning.houses.floor_plan import LATTICE

SPEC = HouseSpec(2)


@pytest.fixture(scope="module")
def navigator():
    return build_navigator(SPEC)


def grid_distances(free, start):
    """Return distances in metres over the squares, by steps of up to 3 squares that stay on free ones."""
    steps = [(a, b) for a in range(-3, 4) for b in range(-3, 4) if np.gcd(a, b) == 1]
    number = -np.ones(free.shape, int)
    number[free] = np.arange(free.sum())
    rows, columns, lengths = [], [], []
    for a, b in steps:
        n = 4 * max(abs(a), abs(b))
        ok = free.copy()
        for k in range(1, n + 1):  # every square that the step passes through
            shift = (round(a * k / n), round(b * k / n))
            ok &= np.roll(free, (-shift[0], -shift[1]), (0, 1))
        i, j = np.nonzero(ok)
        rows.append(number[i, j])
        columns.append(number[i + a, j + b])
        lengths.append(np.full(len(i), np.hypot(a, b) * LATTICE / 100))
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
    # A grid path is a path, so it is never shorter (but for the skin at corners), and not much longer.
    assert (exact <= expected + 0.03).all()
    assert (expected <= 1.04 * exact + 0.12).all()


def test_the_path_is_as_long_as_the_distance_and_free(navigator):
    rng = np.random.default_rng(0)
    for _ in range(50):
        start, end = navigator.sample(rng), navigator.sample(rng)
        field = navigator.field([end])
        path = np.array(field.path(*start))
        assert np.linalg.norm(np.diff(path, axis=0), axis=1).sum() == pytest.approx(field.distance(*start))
        for a, b in pairwise(path):
            for t in np.linspace(0, 1, 25):
                assert navigator.is_free(*(a + t * (b - a)))
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
