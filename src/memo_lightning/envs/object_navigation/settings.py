"""Settings of object navigation that all engines share, with their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from memo_lightning.errors import UserError, require
from memo_lightning.houses import REFERENCE_CAMERA, Camera
from memo_lightning.houses.sources import Source, Split, check_walkable, generated_source, read_source

SensorName = Literal["rgb", "depth", "semantic", "columns"]
SimulatorName = Literal["house_sim", "habitat_sim"]
PositionFrame = Literal["trial", "house"]
EYE_HEIGHT = REFERENCE_CAMERA.eye_height
HFOV = int(REFERENCE_CAMERA.hfov)


def check_observations(sensors: Sequence[str], image_size: int, n_columns: int, position_frame: str) -> None:
    """Check the settings of the observations.

    Args:
        sensors: what the agent observes besides the goal and its position.
        image_size: side of the images, pixels.
        n_columns: number of columns in the column observation.
        position_frame: frame of the position.

    Raises:
        UserError: if a value is out of range.
    """
    for name in sensors:
        require(name in get_args(SensorName), "env.sensors", name, f"among {', '.join(get_args(SensorName))}")
    has_images, has_columns = not {"rgb", "depth", "semantic"}.isdisjoint(sensors), "columns" in sensors
    require(not has_images or 64 <= image_size <= 256, "env.image_size", image_size, "between 64 and 256")
    frames = get_args(PositionFrame)
    require(position_frame in frames, "env.position_frame", position_frame, " or ".join(frames))
    require(not has_columns or 1 <= n_columns <= 4096, "env.n_columns", n_columns, "between 1 and 4096")


def check_simulator(simulator: str, scene_dataset: str, object_folder: str) -> None:
    """Refuse an unknown simulator, and habitat-sim's files for any other simulator.

    Raises:
        UserError: if a value is not allowed.
    """
    require(simulator in get_args(SimulatorName), "env.simulator", simulator, " or ".join(get_args(SimulatorName)))
    if simulator == "house_sim":
        for name, value in (("scene_dataset", scene_dataset), ("object_folder", object_folder)):
            require(not value, f"env.{name}", value, "empty unless env.simulator=habitat_sim")


def image_camera(image_size: int) -> Camera:
    """Return the camera for square images of ``image_size`` pixels a side."""
    return Camera(image_size, image_size, float(HFOV), EYE_HEIGHT)


def check_dataset(split: str, dataset: Mapping[str, Any] | None, prefix: str = "env.") -> None:
    """Raise :class:`UserError` unless houses and placements can be drawn with these settings.

    Args:
        split: split of the placements.
        dataset: further arguments of :class:`~memo_lightning.houses.sources.GeneratedSource`.
        prefix: what precedes the names of the settings in an error.
    """
    require(split in get_args(Split), f"{prefix}split", split, f"one of {', '.join(get_args(Split))}")
    try:
        generated_source(split, dataset or {}).check_room()
    except UserError as error:
        raise UserError(f"{prefix}dataset.{error}") from None


def open_source(split: str, data_path: str, dataset: Mapping[str, Any] | None) -> Source:
    """Return the placements in generated houses, read from a file or drawn on demand.

    Args:
        split: split of the placements.
        data_path: file to read, or folder with ``<split>.jsonl.gz``; empty to draw placements.
        dataset: further arguments of :class:`~memo_lightning.houses.sources.GeneratedSource`.

    Raises:
        UserError: if a value is out of range, or the file cannot be used.
    """
    if data_path:
        return read_source(Path(data_path.replace("{split}", split)), split, check_walkable)
    return generated_source(split, dataset or {})
