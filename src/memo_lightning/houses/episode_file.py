"""The file format of a dataset: a header line, then one line of JSON per placement with its episodes.

One placement per line keeps a large file readable by line tools and lets an error name the line.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_lightning.errors import UserError
from memo_lightning.houses.object_types import OBJECT_TYPES
from memo_lightning.houses.placement import PlacedObject, Placement
from memo_lightning.houses.pose import Pose
from memo_lightning.houses.starts import Start

FORMAT = "ExtObjNav-v1"
_TYPE_NAMES = {object_type.name for object_type in OBJECT_TYPES}


@dataclass(frozen=True)
class StoredPlacement:
    """A placement and the starts of its episodes."""

    placement: Placement
    starts: tuple[Start, ...]


@dataclass(frozen=True)
class EpisodeFile:
    """The contents of an episode file; ``split`` is None if the file does not name one."""

    split: str | None
    placements: list[StoredPlacement]


def dump(file: EpisodeFile) -> str:
    """Return the text of an episode file."""
    types = [object_type.name for object_type in OBJECT_TYPES]
    header = json.dumps({"format": FORMAT, "split": file.split, "object_types": types})
    return "\n".join([header, *(json.dumps(_to_plain(item)) for item in file.placements)]) + "\n"


def load(
    text: str, name: str = "episode file", check: Callable[[StoredPlacement], object] = lambda _: None
) -> EpisodeFile:
    """Parse the text of an episode file, as written by :func:`dump`.

    Args:
        text: contents of the file.
        name: name of the file, for error messages.
        check: called with every placement; raises ``ValueError`` if it cannot be used.

    Raises:
        UserError: if there are no placements, or a line is corrupt or unusable; the message names the line.
    """
    lines = text.splitlines()
    header = _parse(lines[0] if lines else "", f"{name}, line 1")
    if header.get("format") != FORMAT:
        raise UserError(f"{name}, line 1: format={header.get('format')!r}: must be {FORMAT!r}")
    stored = []
    for number, line in enumerate(lines[1:], start=2):
        where = f"{name}, line {number}"
        plain = _parse(line, where)
        try:
            stored.append(_from_plain(plain))
            check(stored[-1])
        except KeyError as error:
            raise UserError(f"{where}: {error} is missing") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{where}: {error}") from error
    if not stored:
        raise UserError(f"{name} has no placements: must have at least one after the header line")
    return EpisodeFile(header.get("split"), stored)


def read_text(path: Path) -> str:
    """Return the contents of a file, decompressed if its name ends with ``.gz``.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as file:
                return file.read()
        return path.read_text(encoding="utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"episode file {path} cannot be read: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a file, compressed if its name ends with ``.gz``; the same text gives the same bytes."""
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        plain = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}, column {error.colno}: {error.msg}") from error
    if not isinstance(plain, dict):
        raise UserError(f"{where}: {line[:40]!r}: must be a JSON object")
    return plain


def _to_plain(stored: StoredPlacement) -> dict[str, Any]:
    placement = stored.placement
    return {
        "scene_id": placement.scene_id,
        "placement": placement.index,
        "n_rejected": placement.n_rejected,
        "objects": [
            {
                "instance": placed.instance,
                "type": placed.type,
                "position": placed.position,
                "yaw": placed.yaw,
                "room": placed.room,
                "goal": [placed.goal[0], placed.floor, placed.goal[1]],
                "view": [placed.view.x, placed.view.y, placed.view.z, placed.view.heading, placed.view.pitch],
            }
            for placed in placement.objects
        ],
        "episodes": [[start.x, start.y, start.z, start.heading, start.goal] for start in stored.starts],
    }


def _from_plain(plain: dict[str, Any]) -> StoredPlacement:
    objects = tuple(_object(item) for item in _list(plain, "objects"))
    if len({placed.instance for placed in objects}) < len(objects):
        raise ValueError("two objects have the same instance")
    placement = Placement(_text(plain["scene_id"]), int(plain["placement"]), objects, int(plain["n_rejected"]))
    starts = []
    for item in _list(plain, "episodes"):
        if not isinstance(item, list) or len(item) not in (4, 5):
            raise ValueError(f"episode {item!r}: must be [x, y, z, heading, goal]")
        *point, heading, goal = item
        if goal not in placement.types:
            raise ValueError(f"goal={goal!r}: must be one of {', '.join(placement.types)}")
        x, y, z = _point(point)
        starts.append(Start(x, z, int(_numbers([heading], 1)[0]), goal, y))
    if not starts:
        raise ValueError("episodes=[]: must have at least one")
    return StoredPlacement(placement, tuple(starts))


def _object(item: Any) -> PlacedObject:
    if not isinstance(item, dict):
        raise ValueError(f"object {item!r}: must be a JSON object")
    if item["type"] not in _TYPE_NAMES:
        raise ValueError(f"type={item['type']!r}: must be one of {', '.join(sorted(_TYPE_NAMES))}")
    if int(item["instance"]) < 1:
        raise ValueError(f"instance={item['instance']}: must be at least 1")
    *point, heading, pitch = item["view"]
    heading, pitch = _numbers([heading, pitch], 2)
    goal_x, floor, goal_z = _point(item["goal"])
    return PlacedObject(
        int(item["instance"]),
        item["type"],
        _numbers(item["position"], 3),  # type: ignore[arg-type]
        int(item["yaw"]),
        int(item["room"]),
        (goal_x, goal_z),
        Pose(*_point(point), int(heading), int(pitch)),
        floor,
    )


def _point(values: list[Any]) -> tuple[float, float, float]:
    """Return x, y, z; y is 0 in older files, which hold only x and z."""
    x, *y, z = _numbers(values, 2 if len(values) == 2 else 3)
    return x, y[0] if y else 0.0, z


def _numbers(values: Any, n: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != n or not all(math.isfinite(value) for value in numbers):
        raise ValueError(f"{values}: must be {n} finite numbers")
    return numbers


def _list(plain: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(plain[key], list):
        raise TypeError(f"{key}={plain[key]!r}: must be a list")
    return plain[key]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"scene_id={value!r}: must be a string")
    return value
