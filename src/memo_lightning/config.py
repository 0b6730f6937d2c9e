"""Composing the configuration from ``conf/`` and command-line overrides, with clear errors for mistakes."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from memo_lightning.construct import construct
from memo_lightning.errors import UserError, require
from memo_lightning.overrides import override_key, override_text, parse_override, quoted

# For defaults that follow other settings: ${smaller:40,${env.trial_length}}.
# A value that is no number is not compared, and is reported where it stands.
OmegaConf.register_new_resolver(
    "smaller", lambda *values: min((v for v in values if isinstance(v, int | float)), default=None), replace=True
)

_OPTIONAL_GROUPS = ("experiment", "debug")
# Mappings that accept settings that the files do not name; whatever receives them rejects unknown ones. So does every
# mapping that is empty by default, and one whose class the user names with `_target_`.
_OPEN = ("algorithm.optimizer", "arms", "baseline", "pruner", "sampler", "trainer")
_FROM_ENVIRONMENT = "${oc.env:"
_NUMBER_OR_LIST = ("model.segment_jitter",)  # a number for all cases, or one for each
_MAX_SEED = 2**32 - 1  # that every random generator accepts
# Settings that are a number or null, by the last part of their names: a default of null does not tell.
_INTEGER_OR_NULL = (
    *("bin_steps", "capacity_bytes", "checkpoint_steps", "episode_length", "episodes_per_trial", "equal_memory_at"),
    *("max_summary_age", "memory_budget", "n_houses", "prune_every"),
)
_NUMBER_OR_NULL = ("success_return", "target_kl")
# The same for text and lists, by their whole names.
_TEXT_OR_NULL = (
    *("algorithm.replay.folder", "baseline.target", "collector.address", "env.id", "env.target"),
    "env.vision.weights",
)
_LIST_OR_NULL = ("encoder.in_keys", "memories")
_TYPES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    list: "a list, e.g. [a,b]",
    dict: "settings, e.g. {name: value}",
}


def config_dir() -> Path:
    """Return the path of the ``conf/`` tree: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def compose_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose ``conf/<name>.yaml`` with Hydra overrides such as ``env=dark_key_to_door_9x9 seed=1``.

    The chosen option of every group is added under ``choices``, e.g. ``choices.env``. Values of environment variables,
    such as ``MLFLOW_TRACKING_URI``, are resolved, so that a run resumed elsewhere keeps them.

    Args:
        name: name of the primary configuration, e.g. ``"train"``.
        overrides: command-line overrides as :func:`~memo_lightning.overrides.parse_override` reads them;
            ``experiment`` also accepts the path of a file.

    Raises:
        UserError: if an override cannot be parsed, names an unknown key or option (the message names the nearest valid
            ones), or gives a value of the wrong type.
    """
    parsed = [parse_override(text) for text in overrides]
    for override in parsed:
        _check_option(override)
    parsed = [part for override in parsed for part in _find_experiment(override)]
    keys = [override.key_or_group for override in parsed]
    groups = {key for key in keys if group_options(key) or key in ("experiment", "hydra.searchpath")}
    # First with the chosen groups only, to find out which keys there are, and of what type.
    of_groups = [override for override in parsed if override.key_or_group in groups]
    signs = dict.fromkeys(_absent_groups(name, of_groups), "+")
    chosen = [signs.get(override.key_or_group, "") + _text(override) for override in of_groups]
    known = _defaults(name, chosen)
    new = _new_settings([override for override in parsed if override.key_or_group not in groups], known)
    signs |= dict.fromkeys(new, "++")
    config, choices = _compose(name, [signs.get(override.key_or_group, "") + _text(override) for override in parsed])
    values = dict(_leaves(config))
    # What the user wrote is checked first, as other settings may have taken over a wrong value from it.
    for key in sorted(known, key=lambda key: key not in keys):
        if key in values:
            default = known[key]
            if values[key] is None and default is not None:  # null may be what an experiment replaced
                default = _without_experiment(name, chosen, choices).get(key, default)
            check_type(key, values[key], default)
        elif OmegaConf.is_dict(OmegaConf.select(config, key)):
            check_type(key, {}, known[key])
    _resolve_environment(config)
    with open_dict(config):
        config.choices = choices
    return config


def overrides_of(config: DictConfig, overrides: Iterable[str]) -> list[str]:
    """Return those of ``overrides`` that change settings of a configuration; those of ``memo sweep`` may be of others.

    Raises:
        UserError: if an override cannot be parsed.
    """
    return [override for override in overrides if override_key(override).partition(".")[0] in config]


def apply_overrides(config: DictConfig, overrides: Sequence[str], optional: Collection[str] = ()) -> None:
    """Change single values of a composed configuration, in place.

    Args:
        config: the configuration.
        overrides: overrides of the form ``key=value``.
        optional: settings, or whole groups, that ``key=null`` switches off.

    Raises:
        UserError: if an override cannot be parsed, names an unknown key or a whole group, or gives a value of the
            wrong type.
    """
    known = dict(_leaves(config))
    parsed = [parse_override(text) for text in overrides]
    switched_off = [o for o in parsed if o.value() is None and o.key_or_group in optional]
    changed = [override for override in parsed if override not in switched_off]
    for override in changed:
        key = override.key_or_group
        if group_options(key):
            raise UserError(f"{_text(override)}: a resumed run keeps its {key}; start a new run to change it")
    _new_settings(changed, known)
    for override in parsed:
        key, value = override.key_or_group, override.value()
        OmegaConf.update(config, key, value, force_add=True)
        if override not in switched_off:
            check_type(key, value, known.get(key))


def merge_file(config: DictConfig, path: Path) -> None:
    """Merge the settings of a YAML file into a configuration, in place.

    Raises:
        UserError: if it is not a YAML mapping, names an unknown setting, or gives a value of the wrong type.
    """
    file = read_settings(path)
    for key in map(str, file):
        if key not in config:
            raise UserError(f"{path}: unknown setting {key!r}: {nearest(key, map(str, config))}")
        default = config[key]
        if OmegaConf.is_list(default) != OmegaConf.is_list(file[key]) and file[key] is not None:
            raise UserError(f"{path}: {key}: must {'' if OmegaConf.is_list(default) else 'not '}be a list")
        check_type(key, file[key], default)
        config[key] = file[key]


def read_settings(path: Path) -> DictConfig:
    """Return the settings of a YAML file.

    Raises:
        UserError: if it cannot be read, or is not a YAML mapping.
    """
    try:
        file = OmegaConf.load(path)
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(file, DictConfig):
        raise UserError(f"{path}: must contain settings as key: value")
    return file


def build(node: DictConfig | dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Call the ``_target_`` of a configuration node with its settings, ``args`` and ``kwargs``.

    Raises:
        UserError: if the target, or that of a nested node, cannot be imported; if the settings do not fit its
            signature, or it rejects them with ``ValueError``.
    """
    try:
        # As a partial: Hydra would copy arguments passed through it, modules with their parameters included.
        settings = instantiate(node, _partial_=True, _convert_="all").keywords
    except InstantiationException as error:
        raise UserError(" ".join(str(error.__cause__ or error).split())) from error
    return construct(get_object(node["_target_"]), *args, **{**settings, **kwargs})


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known words closest to ``word``, or all of them if none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if not close:  # a key given without its group
        close = [key for key in known if key.rsplit(".", 1)[-1] == word]
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def group_options(group: str) -> list[str]:
    """Return the options of a configuration group; empty if there is no such group."""
    folder = config_dir() / group
    return sorted(path.stem for path in folder.glob("*.yaml")) if folder.is_dir() else []


def setting_names(config: DictConfig) -> list[str]:
    """Return the dotted names of all settings of a composed configuration that can be overridden."""
    return [name for name, _ in _leaves(config) if name.partition(".")[0] != "choices" and "._target_" not in name]


def _find_experiment(override: Override) -> list[Override]:
    """Turn ``experiment=PATH/experiment/NAME.yaml`` into overrides that make Hydra find a file outside ``conf/``."""
    if not _is_own_experiment(override):
        return [override]
    path = Path(str(override.value())).absolute()
    if not path.is_file() or path.parent.name != "experiment":
        raise UserError(f"experiment={override.value()}: must be an existing file in a folder named experiment")
    searchpath = f"hydra.searchpath=[{quoted(f'file://{path.parent.parent}')}]"
    return [parse_override(searchpath), parse_override(override_text("experiment", path.stem))]


def _is_own_experiment(override: Override) -> bool:
    return override.key_or_group == "experiment" and str(override.value()).endswith(".yaml")


def _text(override: Override) -> str:
    assert override.input_line is not None
    return override.input_line


def _defaults(name: str, groups: Sequence[str]) -> dict[str, Any]:
    """Return all settings of ``conf/<name>.yaml`` with the chosen ``groups``, and their default values."""
    return (_cached_leaves if _ships(groups) else _leaves_of)(name, tuple(groups))


def _leaves_of(name: str, groups: tuple[str, ...]) -> dict[str, Any]:
    return dict(_leaves(_compose(name, groups)[0]))


_cached_leaves = cache(_leaves_of)


def _without_experiment(name: str, overrides: Sequence[str], choices: dict[str, str]) -> dict[str, Any]:
    """Return all settings of ``conf/<name>.yaml`` with the options of ``choices``, as if there were no experiment.

    Args:
        name: name of the primary configuration.
        overrides: the overrides of groups; those that name folders, in which a user's own options are, apply here too.
        choices: the chosen options by group.
    """
    folders = [text for text in overrides if not _ships([text])]
    groups = [f"{group}={option}" for group, option in choices.items() if option and group != "experiment"]
    return _defaults(name, [*folders, *groups])


def _compose(name: str, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """Return the configuration that Hydra composes, and the chosen options by group."""
    if not _ships(overrides):
        return _composed(config_dir(), name, tuple(overrides))
    config, choices = _composed_before(config_dir(), name, tuple(overrides))
    return copy.deepcopy(config), dict(choices)


def _ships(overrides: Iterable[str]) -> bool:
    """Return whether all files are those of ``conf/``: a user's own may change while this process lives."""
    return not any("hydra.searchpath" in text for text in overrides)


def _composed(folder: Path, name: str, overrides: tuple[str, ...]) -> tuple[DictConfig, dict[str, str]]:
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            config = compose(name, list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(" ".join(str(error).split())) from None
    with open_dict(config):
        choices = config.pop("hydra").runtime.choices
    return config, {group: option for group, option in choices.items() if not group.startswith("hydra/")}


_composed_before = lru_cache(maxsize=256)(_composed)


def _absent_groups(name: str, overrides: Sequence[Override]) -> set[str]:
    """Return the nested groups, such as ``env/vision``, that the chosen option of the outer group does not have."""
    inner = {override.key_or_group for override in overrides if "/" in override.key_or_group}
    if not inner:
        return inner
    outer = [_text(override) for override in overrides if override.key_or_group not in inner]
    return inner - set(_compose(name, outer)[1])


def _check_option(override: Override) -> None:
    group, option = override.key_or_group, override.value()
    if _is_own_experiment(override) or (option is None and group in _OPTIONAL_GROUPS):
        return
    options = group_options(group)
    if options and option not in options:
        shown = "null" if option is None else option
        raise UserError(f"{group}={shown}: no such option; {nearest(str(shown), options)}")


def _new_settings(overrides: Sequence[Override], known: dict[str, Any]) -> set[str]:
    """Return the keys of overrides that add settings to the ``known`` ones, where that is allowed.

    Raises:
        UserError: if an override names a setting that neither exists nor can be added.
    """
    named = {
        override.key_or_group: list(plain_leaves(override.key_or_group, override.value())) for override in overrides
    }
    classes = {
        key.removesuffix("._target_") for leaves in named.values() for key, _ in leaves if key.endswith("._target_")
    }
    new = set()
    for key, leaves in named.items():
        for leaf, value in leaves:
            if leaf in known and not isinstance(value, dict):
                continue
            if value is None and leaf.rpartition(".")[0] == "callbacks":
                continue  # switches it off
            if known.get(leaf) != {} and not _is_open(leaf.rpartition(".")[0], known, classes):
                _refuse_key(leaf, value, known)
            new.add(key)
    return new


def plain_leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the settings that ``key=value`` changes: several if the value is a mapping."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from plain_leaves(f"{key}.{name}", part)
    else:
        yield key, value


def _refuse_key(key: str, value: Any, known: dict[str, Any]) -> None:
    parts = sorted(leaf for leaf in known if leaf.startswith(f"{key}."))
    if parts:
        raise UserError(f"{key}={'null' if value is None else value}: must be settings, e.g. {parts[0]}=...")
    group, _, setting = key.partition(".")
    files = {option: config_dir() / group / f"{option}.yaml" for option in group_options(group)}
    elsewhere = [option for option, file in files.items() if setting in (yaml.safe_load(file.read_text()) or {})]
    if elsewhere:
        raise UserError(f"unknown override {key!r}: exists only with {group}={f' or {group}='.join(elsewhere)}")
    groups = [path.name for path in config_dir().iterdir() if path.is_dir()]
    hint = nearest(key, [*known, *groups])
    if hint.startswith("known"):  # all of them would fill the screen
        hint = f"{nearest(key, {leaf.partition('.')[0] for leaf in known})}; all settings: --help"
    raise UserError(f"unknown override {key!r}: {hint}")


def _is_open(parent: str, known: dict[str, Any], classes: Collection[str]) -> bool:
    """Return whether settings may be added to a mapping, or to one that contains it.

    Args:
        parent: dotted name of the mapping.
        known: all settings.
        classes: mappings whose class the user names.
    """
    if not parent:
        return False
    if known.get(parent) == {}:
        return "none" not in group_options(parent)  # baseline=none and logger=none take no settings
    if parent in _OPEN and (parent in known or any(key.startswith(f"{parent}.") for key in known)):
        return True
    if parent in classes and (f"{parent}._target_" in known or parent.rpartition(".")[0] == "callbacks"):
        return True
    return _is_open(parent.rpartition(".")[0], known, classes)


def check_type(key: str, value: Any, default: Any) -> None:
    """Reject a value whose type is not the default's, and a seed that some random generator does not accept.

    Ints serve as floats, and :data:`_NUMBER_OR_LIST` may be either. A default of None allows null and any other value,
    unless the setting is known to be a number.

    Args:
        key: dotted name of the setting.
        value: its value.
        default: a value of the right type.

    Raises:
        UserError: if the value does not fit.
    """
    or_null = default is None or key.rpartition(".")[2] == "episodes_per_trial"
    expected = _type_or_null(key) if default is None else type(default)
    if expected is None or (value is None and or_null):
        return
    fits = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
    if expected is float and type(value) is int:
        fits = True
    allowed = _TYPES.get(expected)
    if allowed and or_null:
        allowed += ", or null"
    if key in _NUMBER_OR_LIST:
        fits = type(value) in (int, float, list)  # whichever of them the default is
        allowed = "a number, or a list of numbers"
    if allowed and not fits:
        shown = "null" if value is None else repr(value)
        raise UserError(f"{key}={shown}: must be {allowed}")
    if key == "seed":
        require(0 <= value <= _MAX_SEED, key, value, f"from 0 to {_MAX_SEED}")


def _type_or_null(key: str) -> type | None:
    """Return the type of a setting whose default is null; None for any type."""
    name = key.rpartition(".")[2]
    known = {int: name in _INTEGER_OR_NULL, float: name in _NUMBER_OR_NULL}
    known |= {str: key in _TEXT_OR_NULL, list: key in _LIST_OR_NULL}
    return next((kind for kind, fits in known.items() if fits), None)


def _resolve_environment(config: DictConfig) -> None:
    """Replace references to environment variables with their values."""
    for node in (config, config.get("logger")):
        texts: dict[str, Any] = OmegaConf.to_container(node, resolve=False) if node else {}  # type: ignore[assignment]
        for name, text in texts.items():
            if isinstance(text, str) and text.startswith(_FROM_ENVIRONMENT):
                variable = text.removeprefix(_FROM_ENVIRONMENT).partition(",")[0]
                if node[name] == "":
                    raise UserError(
                        f"{variable}='': must not be empty, as {name} defaults to it; or run: unset {variable}"
                    )
                node[name] = node[name]


def _leaves(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and resolved values of all settings except Hydra's own; empty groups are included."""
    for key in map(str, config):
        name = f"{prefix}{key}"
        if name == "hydra":
            continue
        value = config[key]
        if isinstance(value, DictConfig) and len(value):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
