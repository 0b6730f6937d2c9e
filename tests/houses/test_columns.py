from dataclasses import replace

import numpy as np
import pytest

from memo_lightning.houses import Camera, HouseSpec, Pose, View, build_house
from memo_lightning.houses.columns import MAX_RANGE, columns_of
from memo_lightning.houses.placement import TYPE_NUMBERS, PlacementSpec
from memo_lightning.houses.placing import draw_placement
from memo_lightning.houses.shapes import concatenate

CAMERA = Camera(32, 32, 79, 0.88)
SPEC = HouseSpec(4)


@pytest.fixture(scope="module")
def scene():
    placement = draw_placement(PlacementSpec(SPEC, 0))
    return concatenate(build_house(SPEC).arrays, placement.arrays), placement


@pytest.mark.parametrize("pitch", [-30, 0, 30])
def test_columns_are_the_nearest_of_what_the_images_show(scene, pitch):
    solids, placement = scene
    for placed in placement.objects[:10]:
        pose = replace(placed.view, pitch=pitch)
        view = View(pose, solids)
        depth, semantic = view.depth(CAMERA).astype(float), view.semantic(CAMERA)
        type_of = np.array([0, *(TYPE_NUMBERS[placed.type] for placed in placement.objects)])
        eye, right, up, forward = pose.eye_and_axes(CAMERA.eye_height)
        points = depth[..., None] * (forward + CAMERA.rows[:, None, None] * up + CAMERA.columns[None, :, None] * right)
        away = np.hypot(points[..., 0], points[..., 2])
        height = eye[1] + points[..., 1]
        obstacle = np.where((height > 0.05) & (height < 1.8), away, np.inf).min(axis=0)
        to_object = np.where(semantic > 0, away, np.inf)
        nearest = to_object.min(axis=0)
        types = type_of[semantic[to_object.argmin(axis=0), np.arange(32)]]

        columns = view.columns(CAMERA)
        np.testing.assert_allclose(columns.range[:, 0], np.minimum(obstacle / MAX_RANGE, 1), atol=1e-5)
        np.testing.assert_allclose(columns.range[:, 1], np.minimum(nearest / MAX_RANGE, 1), atol=1e-5)
        np.testing.assert_array_equal(columns.type, np.where(nearest < MAX_RANGE, types, 0))


def test_the_goal_is_in_the_columns_of_the_spot_where_it_is_seen(scene):
    solids, placement = scene
    found = []
    for placed in placement.objects:
        columns = View(placed.view, solids).columns(CAMERA)
        found.append(TYPE_NUMBERS[placed.type] in columns.type)
    assert np.mean(found) > 0.9  # sometimes another object is nearer in all its columns


def test_an_empty_image_shows_nothing_in_the_way():
    far = np.full((32, 32), 1000.0, np.float32)
    nothing = np.zeros((32, 32), np.int32)
    columns = columns_of(CAMERA, Pose(0, 0, 0, 0), far, nothing)
    assert (columns.range == 1).all()
    assert (columns.type == 0).all()
