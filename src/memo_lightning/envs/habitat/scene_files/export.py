"""Export of houses as a scene dataset of habitat-sim: models, their configurations, and the episodes in them.

The configurations use the attributes that habitat-sim documents for stages and objects
(https://aihabitat.org/docs/habitat-sim/attributesJSON.html).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memo_lightning.envs.habitat.dataset import ExtObjNavDataset
from memo_lightning.envs.habitat.scene_files.models import to_glb
from memo_lightning.houses import OBJECT_TYPES, HouseSpec, build_house

SCENE_DATASET = "houses.scene_dataset_config.json"
# The models use the world's axes; if this is left out, habitat-sim takes z as up.
_AXES: dict[str, Any] = {"up": [0.0, 1.0, 0.0], "front": [0.0, 0.0, -1.0]}


def template_name(object_type: str) -> str:
    """Return the name of an object type in file names, e.g. ``teddy_bear``."""
    return object_type.replace(" ", "_")


def export_houses(dataset: ExtObjNavDataset, split: str, folder: Path, progress: Callable[[str], object]) -> int:
    """Write the houses of a dataset, all object types, and the dataset itself as ``<split>.jsonl.gz``.

    Args:
        dataset: dataset of generated houses.
        split: name of the episode file.
        folder: folder to write to; created if missing.
        progress: called with the name of each file.

    Returns:
        The number of goals that were rejected as unreachable while the placements were made.

    Raises:
        UserError: if trimesh is not installed.
    """
    for kind in ("stages", "objects"):
        (folder / kind).mkdir(parents=True, exist_ok=True)

    def write(path: Path, data: bytes | dict[str, Any]) -> None:
        path.write_bytes(data if isinstance(data, bytes) else (json.dumps(data, indent=2) + "\n").encode())
        progress(str(path))

    write(folder / SCENE_DATASET, {kind: {"paths": {".json": [kind]}} for kind in ("stages", "objects")})
    for scene_id in dataset.scene_ids:
        write(folder / "stages" / f"{scene_id}.glb", to_glb(build_house(HouseSpec.from_scene_id(scene_id)).solids))
        write(folder / "stages" / f"{scene_id}.stage_config.json", _attributes(scene_id))
    for object_type in OBJECT_TYPES:
        name = template_name(object_type.name)
        write(folder / "objects" / f"{name}.glb", to_glb(object_type.solids))
        # Objects stand on their origin; by default, the middle of the bounding box would take its place.
        attributes = {**_attributes(name), "COM": [0.0, 0.0, 0.0], "is_collidable": False}
        write(folder / "objects" / f"{name}.object_config.json", attributes)
    episodes = folder / f"{split}.jsonl.gz"
    n_rejected = dataset.save(episodes)
    progress(str(episodes))
    return n_rejected


def _attributes(name: str) -> dict[str, Any]:
    # Light is painted into the textures.
    return {"render_asset": f"{name}.glb", **_AXES, "shader_type": "flat"}
