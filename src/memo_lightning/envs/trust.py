"""What an environment's configuration would run: a configuration from elsewhere may name any function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_OURS = "memo_lightning.envs."
_SHIPPED_IDS = (
    "popgym",
    "minigrid",
)  # packages of the extra ``tasks``, which registered environments are imported from


def foreign_code(settings: Mapping[str, Any]) -> list[str]:
    """Return, as ``KEY=VALUE``, the settings that name code which is not part of memo-lightning.

    Args:
        settings: a node of ``conf/env/``, as in a checkpoint.
    """
    return [f"env.{key}={value}" for key, value in _leaves(settings) if not _is_ours(key.split("."), value)]


def _is_ours(path: Sequence[str], value: Any) -> bool:
    name = path[-1]
    if name == "_target_":
        return isinstance(value, str) and value.startswith(_OURS)
    if name in ("target", "make") or any(part.startswith("_") for part in path):  # functions; Hydra's other keys
        return value is None
    if name == "id":
        module, imports, _ = str(value).partition(":")
        return not imports or module in _SHIPPED_IDS
    return True


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    parts: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        parts = [*value.items()]
    elif isinstance(value, list | tuple):
        parts = [*enumerate(value)]
    if not parts:
        yield key, value
    for name, part in parts:
        yield from _leaves(part, f"{key}.{name}" if key else str(name))
