"""Packages: folders that hold a policy to share, with a checksum for each file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from memo_lightning.errors import UserError
from memo_lightning.version import __version__
from memo_lightning.wording import one_line

FORMAT = 1  # version of the package format
MANIFEST, WEIGHTS, CARD = "manifest.json", "model.safetensors", "README.md"
POLICY, TRAINING, EVALUATION = "policy.json", "training.json", "evaluation.json"
CURVE, VIDEO = "in_context_curve.png", "trial.mp4"
# The weights file holds copies of these, so that manual changes can be named in error messages.
COPIED = (POLICY, TRAINING, EVALUATION)
_MAY_CHANGE = frozenset((CARD,))  # people may edit it on the Hub
_NOT_FINITE = "float"
_MOST_SHOWN = 60  # characters of a value in a message


def is_package(folder: Path) -> bool:
    """Return whether a folder looks like a package, that is, has a manifest."""
    return (folder / MANIFEST).is_file()


def read_package(folder: Path) -> dict[str, Any]:
    """Read a package into the form of a checkpoint.

    Raises:
        UserError: if it is not a package, has a format that this version cannot read, or was changed after it was made.
    """
    check_package(folder)
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        weights = {f"policy.{name}": file.get_tensor(name) for name in file.keys()}
    training = read_json(folder / TRAINING)
    return {
        "policy_spec": read_json(folder / POLICY),
        "state_dict": weights,
        **{name: training[name] for name in ("config", "frames", "mlflow_run_id")},
    }


def check_package(folder: Path) -> list[str]:
    """Check that a package is complete and unchanged, except for its model card, and return the names of its files.

    Raises:
        UserError: if it is not; the message names the file and, for JSON, the field.
    """
    files = _read_manifest(folder)
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing from the package; download or build the package again")
        if name != WEIGHTS and name not in COPIED and name not in _MAY_CHANGE and sha256(path) != digest:
            raise _changed(path)
    if sha256(folder / WEIGHTS) != files[WEIGHTS]:
        raise _changed(folder / WEIGHTS)
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            copies = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS}: cannot be read ({error})") from None
    for name in COPIED:
        if name in files:
            _check_copy(folder / name, copies.get(name), files[name])
    return [*files, MANIFEST]


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return the manifest of a package whose other files are all in place."""
    files = {path.name: {"sha256": sha256(path)} for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    return {"memo_package": FORMAT, "memo_version": __version__, "files": files}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON; non-finite numbers, which JSON lacks, become ``{"float": "inf"}`` and the like."""
    path.write_text(json.dumps(_finite(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read the values that :func:`write_json` has written.

    Raises:
        UserError: if the file cannot be read as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=_as_float)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({one_line(error)})") from None


def _read_manifest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file, as stated in the manifest."""
    path = folder / MANIFEST
    manifest = read_json(path)
    held = manifest if isinstance(manifest, dict) else {}
    made = held.get("memo_package")
    if made is None:
        raise UserError(f"{path}: not the manifest of a memo package (it has no field memo_package)")
    if made != FORMAT:
        raise UserError(
            f"{path}: memo_package={made!r}, written by memo-lightning {held.get('memo_version', '?')}; this version "
            f"({__version__}) reads {FORMAT}; pip install 'memo-lightning=={held.get('memo_version', '?')}'"
        )
    files = held.get("files")
    if not isinstance(files, dict):
        raise UserError(f"{path}: files={files!r}: must be a mapping from names to checksums")
    for name, entry in files.items():
        # A manifest may come from anywhere: it may only name files in its own folder.
        if Path(name).name != name or name in ("..", MANIFEST):
            raise UserError(f"{path}: files contains {name!r}: must be the name of a file in the same folder")
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise UserError(f"{path}: files.{name}={entry!r}: must have a sha256")
    if missing := [name for name in (WEIGHTS, POLICY, TRAINING) if name not in files]:
        raise UserError(f"{path}: files has no {', '.join(missing)}, which every policy needs")
    return {name: entry["sha256"] for name, entry in files.items()}


def _check_copy(path: Path, copy: str | None, digest: str) -> None:
    """Raise :class:`UserError` unless a file matches its copy in the weights file."""
    if copy is None:
        raise UserError(f"{path}: {WEIGHTS} has no copy of it; download or build the package again")
    made = json.loads(copy, object_hook=_as_float)
    for field, value, was in _differences(read_json(path), made, ""):
        raise UserError(
            f"{path}: {field}={_shown(value)} was changed by hand (it was {_shown(was)}); change settings when the "
            f"policy is loaded, anything else by packaging it again"
        )
    if sha256(path) != digest:
        raise _changed(path)


def _differences(value: Any, was: Any, field: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(value, dict) and isinstance(was, dict):
        for key in [*was, *(key for key in value if key not in was)]:
            yield from _differences(
                value.get(key, "(nothing)"), was.get(key, "(nothing)"), f"{field}.{key}".lstrip(".")
            )
    elif isinstance(value, list) and isinstance(was, list) and len(value) == len(was):
        for index, (one, other) in enumerate(zip(value, was, strict=True)):
            yield from _differences(one, other, f"{field}[{index}]")
    elif value != was or type(value) is not type(was):
        yield field, value, was


def _changed(path: Path) -> UserError:
    return UserError(f"{path}: was changed after packaging (its SHA-256 differs); download or build the package again")


def _shown(value: Any) -> str:
    text = json.dumps(_finite(value), ensure_ascii=False)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return {_NOT_FINITE: str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _as_float(value: dict[str, Any]) -> Any:
    return float(value[_NOT_FINITE]) if value.keys() == {_NOT_FINITE} else value
