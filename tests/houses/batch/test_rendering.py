import numpy as np
import pytest

from memo_lightning.houses import (
    REFERENCE_CAMERA,
    Camera,
    GeneratedSource,
    HouseSpec,
    Pose,
    build_house,
    build_navigator,
)
from memo_lightning.houses.batch.cameras import PITCHES, lens_of
from memo_lightning.houses.batch.rendering import render
from memo_lightning.houses.batch.scenes import ScenePool
from memo_lightning.houses.batch.threads import Threads
from memo_lightning.houses.columns import columns_camera
from memo_lightning.houses.pose import HEADINGS
from memo_lightning.houses.ray_caster import cast
from memo_lightning.houses.shapes import concatenate

HOUSES = [
    ("train", {"n_houses": 12, "n_placements": 1}),
    ("held_out", {"n_placements": 1}),
    ("train", {"n_houses": 4, "n_placements": 1, "min_rooms": 1, "max_rooms": 3, "n_types": 3, "n_objects": 4}),
]


@pytest.mark.parametrize("camera", [columns_camera(16), REFERENCE_CAMERA, Camera(9, 5, 120, 1.4), columns_camera(1)])
@pytest.mark.parametrize(("split", "options"), HOUSES)
def test_nothing_that_is_left_out_would_have_changed_a_pixel(split, options, camera):
    source = GeneratedSource(split, **options)
    pool = ScenePool(source, source.n_placements, Threads(1))
    lens = lens_of(camera)
    depth = np.empty((camera.height, camera.width), np.float32)
    solid = np.empty((camera.height, camera.width), np.int32)
    rng = np.random.default_rng(0)
    for index, place in enumerate(pool.take(range(source.n_placements))):
        placement, spec = source.placement(index), HouseSpec.from_scene_id(source.scene_id(index))
        solids, navigator = concatenate(build_house(spec).arrays, placement.arrays), build_navigator(spec)
        for k in range(40):
            turn, tilt = int(rng.integers(len(HEADINGS))), int(rng.integers(len(PITCHES)))
            x, z = navigator.sample(rng)
            if k % 2:  # as far into a corner as the agent can walk
                x, z, _ = navigator.move(x, z, *rng.uniform(-3, 3, 2))
            pose = Pose(x, 0.0, z, HEADINGS[turn], PITCHES[tilt])
            render(pool.arrays, place, x, 0.0, z, turn, tilt, lens, depth, solid)
            expected_depth, expected_solid = cast(camera, pose, solids)
            np.testing.assert_array_equal(depth, expected_depth)
            np.testing.assert_array_equal(solid, expected_solid)
