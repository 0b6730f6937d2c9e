"""Solids as textured triangle meshes in glTF's binary form (``.glb``)."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from memo_lightning.envs.habitat.scene_files.atlas import Atlas
from memo_lightning.envs.habitat.scene_files.patches import mesh_of, patches_of
from memo_lightning.errors import UserError
from memo_lightning.houses.shapes import Solid, pack


def to_glb(solids: Sequence[Solid]) -> bytes:
    """Return solids as one textured mesh in metres, with x right, y up and z towards the viewer.

    Raises:
        UserError: if trimesh is not installed.
    """
    trimesh, pillow = _libraries()
    arrays = pack(solids)
    patches = [patches_of(solid) for solid in solids]
    atlas = Atlas(patches, arrays)
    vertices, coordinates, triangles, n_vertices, index = [], [], [], 0, 0
    for solid, group in zip(solids, patches, strict=True):
        c, s = solid.cos_yaw, solid.sin_yaw
        turned = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
        for patch in group:
            points, uv, corners = mesh_of(patch)
            vertices.append(points @ turned + solid.centre)
            coordinates.append(atlas.texture_coordinates(index, uv))
            triangles.append(corners + n_vertices)
            n_vertices, index = n_vertices + len(points), index + 1
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=pillow.fromarray(atlas.image), metallicFactor=0.0, roughnessFactor=1.0
    )
    mesh = trimesh.Trimesh(
        np.concatenate(vertices),
        np.concatenate(triangles),
        visual=trimesh.visual.TextureVisuals(uv=np.concatenate(coordinates), material=material),
        process=False,
    )
    return trimesh.exchange.gltf.export_glb(trimesh.Scene([mesh]))


def _libraries() -> tuple[ModuleType, ModuleType]:
    try:
        import trimesh
        import trimesh.exchange.gltf
        from PIL import Image
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'memo-lightning[habitat]'") from None
    return trimesh, Image
