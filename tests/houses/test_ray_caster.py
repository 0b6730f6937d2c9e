import numpy as np
import pytest

from memo_lightning.houses import OBJECT_TYPES, Camera, HouseSpec, Pose, build_house
from memo_lightning.houses.placement import arrays_of
from memo_lightning.houses.ray_caster import FAR, cast, shade
from memo_lightning.houses.shapes import Paint, Solid, pack, turn
from meshes import nearest_hits, triangles_of

CAMERA = Camera(width=40, height=24, hfov=79, eye_height=0.88)
WHITE = Paint((255, 255, 255))


def rays_of(camera, pose):
    """Return the eye and all rays by the textbook formula: rotate by pitch, then by yaw."""
    pitch = np.deg2rad(pose.pitch)
    focal = camera.width / 2 / np.tan(np.deg2rad(camera.hfov / 2))
    j, i = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    local = np.stack(
        [(j + 0.5 - camera.width / 2) / focal, (camera.height / 2 - i - 0.5) / focal, -np.ones(i.shape)],
        axis=-1,
    ).reshape(-1, 3)
    tilt = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    c, s = np.cos(np.deg2rad(pose.heading)), np.sin(np.deg2rad(pose.heading))
    yaw = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([pose.x, pose.y + camera.eye_height, pose.z]), local @ (yaw @ tilt).T


def mesh_depth(camera, pose, solids):
    eye, rays = rays_of(camera, pose)
    triangles = np.concatenate([triangles_of(solid) for solid in solids])
    return nearest_hits(eye, rays, triangles).reshape(camera.height, camera.width)


@pytest.mark.parametrize(("first", "heading", "pitch"), [(0, 0, 0), (1, 30, -30), (2, 135, 30), (3, 270, 0)])
def test_depth_of_every_object_type_equals_that_of_its_mesh(first, heading, pitch):
    pose = Pose(0.4, 0.0, -0.3, heading, pitch)
    forward = np.array(pose.ahead(1.0))
    aside = np.array([forward[1], -forward[0]])
    height = 0.7 + np.tan(np.deg2rad(pitch))
    objects = []
    for k, object_type in enumerate(OBJECT_TYPES[first::4]):
        x, z = np.array([0.4, -0.3]) + 1.2 * forward + (0.35 * k - 0.7) * aside
        objects.append((object_type.name, (x, height, z), 15 * (3 * k + 1)))
    arrays = arrays_of(objects, range(1, len(objects) + 1))
    solids = [
        solid.placed(position, *turn(yaw))
        for (name, position, yaw) in objects
        for object_type in OBJECT_TYPES
        if object_type.name == name
        for solid in object_type.solids
    ]
    depth, found = cast(CAMERA, pose, arrays)
    expected = mesh_depth(CAMERA, pose, solids)
    hit, expected_hit = found >= 0, np.isfinite(expected)
    # A polyhedron is slightly smaller than the round solid, so outlines may differ by a pixel in places.
    assert (hit != expected_hit).mean() < 0.01
    assert expected_hit.sum() > 50
    both = hit & expected_hit
    close = np.abs(depth[both] - expected[both]) < 2e-3
    assert close.mean() > 0.97  # the rest lies on edges that only one of the two hits


@pytest.mark.parametrize("pitch", [-30, 0, 30])
def test_depth_of_a_furnished_house_equals_that_of_its_mesh(pitch):
    house = build_house(HouseSpec(3))
    x, z = house.roomy_points(0)[40]
    pose = Pose(float(x), 0.0, float(z), 120, pitch)
    depth, _ = cast(CAMERA, pose, house.arrays)
    expected = mesh_depth(CAMERA, pose, house.solids)
    assert (np.abs(depth - expected) < 1e-4).mean() > 0.998
    assert np.abs(depth - expected).max() < 5.0


def test_what_is_nearer_hides_what_is_behind():
    boxes = [Solid("box", (0, 0.9, -d), (0.2, 0.2, 0.1), WHITE) for d in (3.0, 2.0)]
    depth, solid = cast(CAMERA, Pose(0, 0, 0, 0.0), pack(boxes, [7, 8]))
    assert solid[12, 20] == 1
    assert depth[12, 20] == pytest.approx(1.9, abs=1e-6)
    assert 0 not in solid


def test_depth_is_measured_along_the_optical_axis():
    wall = Solid("box", (0, 1, -5), (50, 50, 1), WHITE)
    depth, _ = cast(CAMERA, Pose(0, 0, 0, 0.0), pack([wall], [0]))
    np.testing.assert_allclose(depth, 4.0, atol=1e-5)


def test_turned_box_is_seen_like_the_same_box_described_without_a_turn():
    level = Solid("box", (0.3, 0.8, -2), (0.5, 0.3, 0.2), WHITE)
    turned = Solid("box", (0.3, 0.8, -2), (0.2, 0.3, 0.5), WHITE, *turn(90))
    pose = Pose(0, 0, 0, 15, -10)
    a, b = (cast(CAMERA, pose, pack([solid], [1]))[0] for solid in (level, turned))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_nothing_is_seen_behind_the_camera_and_empty_pixels_are_far():
    box = Solid("box", (0, 0.9, 2), (0.5, 0.5, 0.5), WHITE)
    depth, solid = cast(CAMERA, Pose(0, 0, 0, 0.0), pack([box], [1]))
    assert (solid == -1).all()
    assert (depth == FAR).all()


def test_walking_along_a_wall_that_reaches_behind_the_camera_shows_no_gap():
    wall = Solid("box", (-0.3, 1, 0), (0.05, 1, 30), WHITE)
    _, solid = cast(CAMERA, Pose(0, 0, 0, 0.0), pack([wall], [0]))
    expected = mesh_depth(CAMERA, Pose(0, 0, 0, 0.0), [wall])
    np.testing.assert_array_equal(solid >= 0, np.isfinite(expected))


def test_looking_up_moves_things_down_in_the_image():
    box = Solid("box", (0, 0.9, -2), (0.1, 0.1, 0.1), WHITE)
    rows = []
    for pitch in (-20, 0, 20):
        _, solid = cast(CAMERA, Pose(0, 0, 0, 0.0, pitch), pack([box], [1]))
        rows.append(np.nonzero(solid == 0)[0].mean())
    assert rows[0] < rows[1] < rows[2]


def test_colours_are_those_of_the_paint_darkened_by_light_only():
    paint = Paint((200, 100, 50))
    box = Solid("box", (0, 0.9, -2), (0.5, 0.5, 0.5), paint)
    pose = Pose(0, 0, 0, 0.0)
    arrays = pack([box], [1])
    depth, solid = cast(CAMERA, pose, arrays)
    rgb = shade(CAMERA, pose, arrays, depth, solid)
    assert (rgb[solid < 0] == 0).all()
    seen = rgb[solid == 0].astype(float)
    np.testing.assert_allclose(seen[:, 1] / seen[:, 0], 0.5, atol=0.02)
    np.testing.assert_allclose(seen[:, 2] / seen[:, 0], 0.25, atol=0.02)


@pytest.mark.parametrize(("field", "value"), [("width", 0), ("hfov", 180), ("eye_height", 0.0)])
def test_a_camera_that_cannot_be_is_refused(field, value):
    options = {"width": 8, "height": 8, "hfov": 79, "eye_height": 0.9, field: value}
    with pytest.raises(ValueError, match=str(value)):
        Camera(**options)
