"""What an environment's configuration would run: a configuration from elsewhere may name any function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_OURS = "memo_lightning.envs."
_TASKS = ("popgym", "minigrid")  # packages of the extra ``tasks``, which register environments


def foreign_code(settings: Mapping[str, Any]) -> list[str]:
    """Return, as ``KEY=VALUE``, the settings that name code which is not part of memo-lightning.

    Args:
        settings: a node of ``conf/env/``, as in a checkpoint.
    """
    return [f"env.{'.'.join(path)}={value}" for path, value in _leaves(settings) if not _is_ours(path, value)]


def _is_ours(path: Sequence[str], value: Any) -> bool:
    name = path[-1]
    if name == "_target_":
        return isinstance(value, str) and value.startswith(_OURS)
    if name in ("target", "make") or any(part.startswith("_") for part in path):  # functions; Hydra's other keys
        return value is None
    if name == "id":
        module, imports, _ = str(value).partition(":")
        return not imports or module in _TASKS
    return True


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the value of everything that is not a non-empty mapping or list."""
    if isinstance(value, Mapping):
        parts = [*value.items()]
    else:
        parts = [*enumerate(value)] if isinstance(value, list | tuple) else []
    if not parts:
        yield path, value
    for name, part in parts:
        yield from _leaves(part, (*path, str(name)))
