"""What an environment's configuration would run: a configuration from elsewhere may name any function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Exact names: a module holds whatever it imports, so a name that begins like ours may be that of any function.
_ENVIRONMENTS = (
    *("memo_lightning.envs.DarkKeyToDoor", "memo_lightning.envs.Darkroom", "memo_lightning.envs.ManyRooms"),
    *("memo_lightning.envs.TMaze", "memo_lightning.envs.GymnasiumEnv", "memo_lightning.envs.gymnasium.GymnasiumEnv"),
    "memo_lightning.envs.custom.make_custom_env",
    "memo_lightning.envs.object_navigation.make.make_ext_objnav",
)
_WRAPPERS = (
    *("memo_lightning.envs.gymnasium.SelectComponents", "memo_lightning.envs.gymnasium.BoundActions"),
    *("minigrid.wrappers.OneHotPartialObsWrapper", "minigrid.wrappers.ImgObsWrapper"),
)
_VISION = ("memo_lightning.envs.vit_features.VitFeatures",)
_TASKS = ("popgym", "minigrid")  # packages of the extra ``tasks``, which register environments


def foreign_code(settings: Mapping[str, Any]) -> list[str]:
    """Return, as ``KEY=VALUE``, the settings that name code which is not part of memo-lightning.

    Args:
        settings: a node of ``conf/env/``, as in a checkpoint.
    """
    return [f"env.{'.'.join(path)}={value}" for path, value in _leaves(settings) if not _is_ours(path, value)]


def _is_ours(path: Sequence[str], value: Any) -> bool:
    match path:
        case ["_target_"]:
            return value in _ENVIRONMENTS
        case ["vision", "_target_"]:
            return value in _VISION
        case ["wrappers", _] | ["wrappers", _, "_target_"]:
            return value in _WRAPPERS
        case ["wrappers", _, "_partial_"]:  # in the files of older runs
            return isinstance(value, bool)
        case [*_, "target" | "make"]:  # functions
            return value is None
        case [*parts] if any(part.startswith("_") for part in parts):  # Hydra's other keys, and calls elsewhere
            return value is None
        case ["id"]:
            module, imports, _ = str(value).partition(":")
            return not imports or module in _TASKS
    return True


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the value of everything that is not a non-empty mapping or list."""
    if isinstance(value, Mapping):
        parts = [*value.items()]
    else:
        parts = [*enumerate(value)] if isinstance(value, Sequence) and not isinstance(value, str) else []
    if not parts:
        yield path, value
    for name, part in parts:
        yield from _leaves(part, (*path, str(name)))
