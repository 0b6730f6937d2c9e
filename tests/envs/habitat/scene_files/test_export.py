import io
import json
import math

import numpy as np
import pytest
import trimesh

from memo_lightning.cli.main import main
from memo_lightning.envs.habitat.config import make_config
from memo_lightning.envs.habitat.dataset import ExtObjNavDataset
from memo_lightning.envs.habitat.scene_files.models import to_glb
from memo_lightning.houses import OBJECT_TYPES, Camera, HouseSpec, View, build_house
from memo_lightning.houses.shapes import Paint, Solid, concatenate
from meshes import first_hits

CAMERA = Camera(32, 32, 79, 0.88)
# Attributes of stages and objects that habitat-sim documents.
STAGE = {"render_asset", "up", "front", "shader_type"}
OBJECT = STAGE | {"COM", "is_collidable"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("houses")
    small = ["n_houses=1", "n_placements=2", "n_episodes=3", "min_rooms=2", "max_rooms=3", "n_types=8", "n_objects=9"]
    assert main(["export-houses", f"run_dir={folder}", *(f"dataset.{option}" for option in small)]) == 0
    dataset = ExtObjNavDataset(make_config(data_path=str(folder / "train.jsonl.gz")).habitat.dataset)
    return folder, dataset


def load(path):
    return trimesh.load(path, file_type="glb").to_geometry()


def scene_of(folder, placement):
    """Return the meshes of the house and its objects in place, and the instance of each (0 for the house)."""
    meshes, instances = [load(folder / "stages" / f"{placement.scene_id}.glb")], [0]
    for placed in placement.objects:
        config = json.loads((folder / "objects" / f"{placed.type.replace(' ', '_')}.object_config.json").read_text())
        mesh = load(folder / "objects" / config["render_asset"])
        turn = trimesh.transformations.rotation_matrix(math.radians(placed.yaw), config["up"])
        mesh.apply_transform(trimesh.transformations.translation_matrix(placed.position) @ turn)
        meshes.append(mesh)
        instances.append(placed.instance)
    return meshes, instances


@pytest.mark.parametrize("index", [0, 1])
def test_the_files_show_what_the_embedded_simulator_shows(exported, index):
    folder, dataset = exported
    placement = dataset.placement(index)
    solids = concatenate(build_house(HouseSpec.from_scene_id(placement.scene_id)).arrays, placement.arrays)
    meshes, instances = scene_of(folder, placement)
    triangles = np.concatenate([mesh.triangles for mesh in meshes])
    owner = np.concatenate([[k] * len(mesh.faces) for k, mesh in enumerate(meshes)])
    first_face = np.cumsum([0, *(len(mesh.faces) for mesh in meshes)])
    for placed in placement.objects[:2]:
        pose, view = placed.view, View(placed.view, solids)
        eye, right, up, forward = pose.eye_and_axes(CAMERA.eye_height)
        rays = forward + CAMERA.rows[:, None, None] * up + CAMERA.columns[None, :, None] * right
        depth, hit = first_hits(eye, rays.reshape(-1, 3), triangles)

        expected = view.depth(CAMERA).ravel()
        assert (np.abs(depth - expected) < 0.05).mean() > 0.98
        seen = np.array(instances)[owner[hit]]
        assert (seen == view.semantic(CAMERA).ravel()).mean() > 0.98
        assert placed.instance in seen

        # Faces must point outwards: renderers cull back faces, and only floors that face upwards can be walked on.
        normals = np.concatenate([mesh.face_normals for mesh in meshes])[hit]
        assert ((normals * rays.reshape(-1, 3)).sum(axis=1) < 0).mean() > 0.98

        colours = np.array([colour_at(meshes[owner[h]], h - first_face[owner[h]], eye + t * ray)
                            for h, t, ray in zip(hit, depth, rays.reshape(-1, 3), strict=True)])  # fmt: skip
        darkened = colours * (1 - 0.25 * depth / (depth + 6))[:, None]  # darkened by distance, as in the ray caster
        of_house = seen == 0  # objects have their shading baked in as if unrotated
        difference = np.abs(darkened - view.rgb(CAMERA).reshape(-1, 3)).max(axis=1)[of_house]
        assert np.median(difference) < 4
        assert (difference < 40).mean() > 0.9  # the other pixels lie on edges of patterns


def colour_at(mesh, face, point):
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[face : face + 1], point[None])[0]
    u, v = weights @ mesh.visual.uv[mesh.faces[face]]
    image = mesh.visual.material.baseColorTexture
    x, y = int(u * image.width), int((1 - v) * image.height)
    return np.array(image.getpixel((min(x, image.width - 1), min(y, image.height - 1))))[:3]


@pytest.mark.parametrize(
    ("solid", "volume"),
    [
        (Solid("box", (1, 2, 3), (0.5, 0.25, 0.1), Paint((9, 9, 9)), 0.6, 0.8), 0.1),
        (Solid("frustum", (0, 0, 0), (0.2, 0.5, 0.1), Paint((9, 9, 9))), math.pi * 0.07 / 3),
        (Solid("ellipsoid", (0, 0, 0), (0.3, 0.2, 0.1), Paint((9, 9, 9))), math.pi * 0.008),
    ],
)
def test_meshes_are_closed_and_face_outwards(solid, volume):
    mesh = load(io.BytesIO(to_glb([solid])))
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(volume, rel=0.03)


def test_the_files_of_the_scene_dataset_are_complete_and_use_documented_attributes(exported):
    folder, dataset = exported
    paths = json.loads((folder / "houses.scene_dataset_config.json").read_text())
    assert paths == {kind: {"paths": {".json": [kind]}} for kind in ("stages", "objects")}
    stages, objects = sorted((folder / "stages").glob("*.json")), sorted((folder / "objects").glob("*.json"))
    assert [path.name for path in stages] == [f"{scene_id}.stage_config.json" for scene_id in dataset.scene_ids]
    assert len(objects) == len(OBJECT_TYPES)
    for path in (*stages, *objects):
        config = json.loads(path.read_text())
        assert set(config) == (STAGE if path in stages else OBJECT)
        assert (path.parent / config["render_asset"]).is_file()
        assert (config["up"], config["front"]) == ([0, 1, 0], [0, 0, -1])
    for object_type in OBJECT_TYPES:
        mesh = load(folder / "objects" / f"{object_type.name.replace(' ', '_')}.glb")
        assert mesh.bounds[0, 1] == pytest.approx(0.0, abs=1e-6)  # it stands on its origin


def test_the_exported_episodes_are_those_of_the_generated_dataset(exported):
    _, dataset = exported
    options = {"n_houses": 1, "n_placements": 2, "n_episodes": 3, "min_rooms": 2, "max_rooms": 3}
    generated = ExtObjNavDataset(make_config(dataset={**options, "n_types": 8, "n_objects": 9}).habitat.dataset)
    assert list(dataset.episodes) == list(generated.episodes)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["export-houses", f"run_dir={tmp_path / 'file'}", "dataset.n_houses=1", "dataset.n_placements=1"]) == 2
    assert "file: must be writable" in capsys.readouterr().err
