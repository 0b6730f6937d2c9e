"""Composing the configuration from ``conf/`` and command-line overrides, and saying what is wrong with them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from memo_lightning.construct import construct
from memo_lightning.errors import UserError

# For defaults that follow other settings: ${smaller:40,${env.trial_length}}.
OmegaConf.register_new_resolver("smaller", min, replace=True)

_OPTIONAL_GROUPS = ("experiment", "debug")
# Mappings that take settings of which the files name none or not all; whoever gets them refuses what it does not know.
# So does every mapping that is empty by default.
_OPEN = ("baseline", "algorithm.optimizer", "trainer", "sampler", "pruner")


def config_dir() -> Path:
    """Return the ``conf/`` tree: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def compose_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose ``conf/<name>.yaml`` with Hydra overrides such as ``env=dark_key_to_door_9x9 seed=1``.

    The chosen option of every group is added under ``choices``, e.g. ``choices.env``.

    Args:
        name: the primary configuration, e.g. ``"train"``.
        overrides: command-line overrides in Hydra's grammar; ``experiment`` also takes the path of a file.

    Raises:
        UserError: if an override cannot be parsed, names an unknown key or option (the nearest valid ones are
            named), or gives a value of another type.
    """
    for override in map(_parse, overrides):
        _check_option(override)
    overrides = [part for override in overrides for part in _find_experiment(override)]
    parsed = [_parse(override) for override in overrides]
    keys = [override.key_or_group for override in parsed]
    groups = {key for key in keys if group_options(key) or key in ("experiment", "hydra.searchpath")}
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        # First with the chosen groups only: that says which keys there are, and of what type.
        chosen = [text for text, override in zip(overrides, parsed, strict=True) if override.key_or_group in groups]
        ships = "hydra.searchpath" not in groups  # a user's file may change while this process lives
        known = (_cached_defaults if ships else _defaults)(name, tuple(chosen))
        for index, override in enumerate(parsed):
            key = override.key_or_group
            if key in groups or override.is_add():
                continue
            if key not in known and _is_open(key.rpartition(".")[0], known):
                overrides[index] = f"++{overrides[index]}"
            else:
                _check_key(key, known)
        config = _compose(name, list(overrides))
    # What the user wrote comes first: other settings may have taken a wrong value over from it.
    for key, value in sorted(_leaves(config), key=lambda leaf: leaf[0] not in keys):
        _check_type(key, value, known.get(key))
    with open_dict(config):
        choices = config.pop("hydra").runtime.choices
        config.choices = {group: option for group, option in choices.items() if not group.startswith("hydra/")}
    return config


def apply_overrides(config: DictConfig, overrides: Sequence[str], optional: Collection[str] = ()) -> None:
    """Change single values of a configuration that was composed before, in place.

    Args:
        config: the configuration.
        overrides: each ``key=value``.
        optional: groups that ``key=null`` switches off as a whole.

    Raises:
        UserError: if an override cannot be parsed, names an unknown key or a whole group, or gives a value of
            another type.
    """
    known = dict(_leaves(config))
    for text in overrides:
        override = _parse(text)
        key = override.key_or_group
        if group_options(key):
            raise UserError(f"{text}: {key} cannot be swapped in a run that goes on")
        if key in optional and override.value() is None:
            config[key] = None
            continue
        if key not in known:
            raise UserError(f"unknown override {key!r}: {nearest(key, known)}")
        OmegaConf.update(config, key, override.value())
        _check_type(key, OmegaConf.select(config, key), known[key])


def merge_file(config: DictConfig, path: Path) -> None:
    """Take over the settings of a YAML file, in place.

    Raises:
        UserError: if it is no YAML mapping, names an unknown setting, or gives a value of another type.
    """
    try:
        file = OmegaConf.load(path)
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(file, DictConfig):
        raise UserError(f"{path}: must hold settings as key: value")
    for key in map(str, file):
        if key not in config:
            raise UserError(f"{path}: unknown setting {key!r}: {nearest(key, map(str, config))}")
        default = config[key]
        if OmegaConf.is_list(default) != OmegaConf.is_list(file[key]) and file[key] is not None:
            raise UserError(f"{path}: {key}: must {'' if OmegaConf.is_list(default) else 'not '}be a list")
        _check_type(key, file[key], default)
        config[key] = file[key]


def override_key(text: str) -> str:
    """Return the key that an override such as ``algorithm.gamma=0.9`` changes.

    Raises:
        UserError: if it cannot be parsed.
    """
    return _parse(text).key_or_group


def build(node: DictConfig | dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Call the ``_target_`` of a configuration node with its settings, ``args`` and ``kwargs``.

    Raises:
        UserError: if the settings do not fit the target's signature, or it refuses them with ``ValueError``.
    """
    # As a partial: Hydra would copy arguments passed through it, modules with their parameters included.
    settings = instantiate(node, _partial_=True, _convert_="all").keywords
    return construct(get_object(node["_target_"]), *args, **{**settings, **kwargs})


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known words closest to ``word``, or all of them if none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if not close:  # a key given without its group
        close = [key for key in known if key.rsplit(".", 1)[-1] == word]
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def group_options(group: str) -> list[str]:
    """Return the options of a configuration group; none if there is no such group."""
    folder = config_dir() / group
    return sorted(path.stem for path in folder.glob("*.yaml")) if folder.is_dir() else []


def setting_names(config: DictConfig) -> list[str]:
    """Return the dotted names of all settings of a composed configuration that can be overridden."""
    return [name for name, _ in _leaves(config) if name.partition(".")[0] != "choices" and "._target_" not in name]


def _find_experiment(override: str) -> list[str]:
    """Turn ``experiment=PATH/experiment/NAME.yaml`` into what makes Hydra find a file outside ``conf/``."""
    if not _is_own_experiment(override):
        return [override]
    path = Path(override.partition("=")[2]).absolute()
    if not path.is_file() or path.parent.name != "experiment":
        raise UserError(f"{override}: must be an existing file in a folder called experiment")
    return [f"hydra.searchpath=['file://{path.parent.parent}']", f"experiment={path.stem}"]


def _is_own_experiment(override: str) -> bool:
    return override.startswith("experiment=") and override.endswith(".yaml")


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        raise UserError(f"override {text!r}: must have the form key=value") from None


def _defaults(name: str, groups: tuple[str, ...]) -> dict[str, Any]:
    """Return all settings of ``conf/<name>.yaml`` under the chosen ``groups``, with the values they have by default."""
    return dict(_leaves(_compose(name, list(groups))))


_cached_defaults = cache(_defaults)


def _compose(name: str, overrides: list[str]) -> DictConfig:
    try:
        return compose(name, overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(" ".join(str(error).split())) from None


def _check_option(override: Override) -> None:
    if _is_own_experiment(override.input_line or ""):
        return
    group, option = override.key_or_group, override.value()
    options = group_options(group)
    if option is None and group in _OPTIONAL_GROUPS:
        return
    if options and option not in options:
        shown = "null" if option is None else option
        raise UserError(f"{group}={shown}: no such option; {nearest(str(shown), options)}")


def _check_key(key: str, known: dict[str, Any]) -> None:
    if key in known or any(leaf.startswith(f"{key}.") for leaf in known):
        return
    groups = [path.name for path in config_dir().iterdir() if path.is_dir()]
    raise UserError(f"unknown override {key!r}: {nearest(key, [*known, *groups])}")


def _is_open(parent: str, known: dict[str, Any]) -> bool:
    """Say whether settings may be added to a mapping: itself, or any that it is part of."""
    if not parent:
        return False
    if known.get(parent) == {}:
        return "none" not in group_options(parent)  # baseline=none and logger=none are nothing that takes settings
    if parent in _OPEN and any(key.startswith(f"{parent}.") for key in known):
        return True
    return _is_open(parent.rpartition(".")[0], known)


def _check_type(key: str, value: Any, default: Any) -> None:
    """Refuse a value of another type than the default's; None stands for any type, and ints serve as floats."""
    if default is None or value is None:
        return
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    expected = type(default)
    fits = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
    if expected is float and type(value) is int:
        fits = True
    if expected in names and not fits:
        raise UserError(f"{key}={value!r}: must be {names[expected]}")


def _leaves(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and resolved values of everything but Hydra's own settings; empty groups too."""
    for key in map(str, config):
        name = f"{prefix}{key}"
        if name == "hydra":
            continue
        value = config[key]
        if isinstance(value, DictConfig) and len(value):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
