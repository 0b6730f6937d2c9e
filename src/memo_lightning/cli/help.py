"""``memo VERB --help``: the settings that can be overridden, read from ``conf/``, within 80 columns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf, open_dict

from memo_lightning.config import compose_config, config_dir, group_options, overrides_of

_WIDTH = 79
_COMMENT_COLUMN = 38
_SETTING = re.compile(r"(?P<indent> *)(?P<key>[\w-]+):(?P<value>.*?)(?: +# *(?P<comment>.*))?")


def print_help(name: str, text: str, arguments: Sequence[str], verb: str | None = None) -> bool:
    """Print the settings of ``conf/<name>.yaml``, which a verb takes, if help is asked for; return whether it was.

    Args:
        name: name of the primary configuration.
        text: what the verb does.
        arguments: arguments of the command; the settings are shown with its overrides applied.
        verb: name of the verb, if it differs from that of the configuration.
    """
    if not {"-h", "--help"} & set(arguments):
        return False
    config = compose_config(name, _overrides_of(name, arguments))
    with open_dict(config):
        choices = config.pop("choices", {})
    described = textwrap.fill(" ".join(text.split()), _WIDTH)
    print(f"usage: memo {verb or name} [override ...]\n\n{described}\n")
    comments = _comments(config_dir() / f"{name}.yaml")
    if choices:
        print("groups (override as group=option):")
        for group, option in choices.items():
            _print_wrapped(f"  {group:<12} ", ", ".join(group_options(group)))
            if option is not None:
                found = _comments(config_dir() / group / f"{option}.yaml")
                comments |= {f"{group}.{key}": comment for key, comment in found.items()}
        print("\nexperiments (override as experiment=NAME):")
        print_files(sorted((config_dir() / "experiment").glob("*.yaml")))
        print()
    print("settings (override as key=value):")
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    print("\n".join(_tree(values, comments)))
    return True


def _overrides_of(name: str, arguments: Sequence[str]) -> list[str]:
    """Return the arguments that are overrides of a configuration; those of ``memo sweep`` may be of its trials."""
    overrides = [argument for argument in arguments if not argument.startswith("-") and "=" in argument]
    return overrides_of(compose_config(name), overrides) if name == "sweep" else overrides


def print_files(files: Iterable[Path]) -> None:
    """Print the names of YAML files, each with the first line of its description."""
    for file in files:
        lines = [line.lstrip("# ") for line in file.read_text().splitlines() if line.startswith("#")]
        descriptions = [line for line in lines if not line.startswith("@package")]
        _print_wrapped(f"  {file.stem:<28} ", descriptions[0] if descriptions else "")


def _print_wrapped(first: str, text: str) -> None:
    print(textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first)) or first.rstrip())


def _tree(values: Mapping[str, Any], comments: Mapping[str, str], prefix: str = "") -> Iterator[str]:
    """Yield the lines of a configuration as YAML, with the comments from its files."""
    indent = " " * (2 + 2 * prefix.count("."))
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _commented(f"{indent}{key}:", comments.get(name, ""))
            yield from _tree(value, comments, f"{name}.")
        else:
            shown = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
            yield from _commented(f"{indent}{key}: {shown}", comments.get(name, ""))


def _commented(setting: str, comment: str) -> Iterator[str]:
    """Yield a setting followed by its comment, which starts on a new line if there is no room."""
    lines = textwrap.wrap(comment, _WIDTH - _COMMENT_COLUMN - 2)
    beside = lines and len(setting) < _COMMENT_COLUMN
    yield f"{setting:<{_COMMENT_COLUMN}}# {lines[0]}" if beside else setting
    for line in lines[1:] if beside else lines:
        yield f"{'':<{_COMMENT_COLUMN}}# {line}"


def _comments(file: Path) -> dict[str, str]:
    """Return the comments on the settings of a file, and of the files that it builds on, by setting name."""
    if not file.is_file():
        return {}
    found: dict[str, str] = {}
    for default in (yaml.safe_load(file.read_text()) or {}).get("defaults", []):
        if isinstance(default, str) and default != "_self_":
            found |= _comments(file.with_name(f"{default}.yaml"))
        elif isinstance(default, dict):
            for group, option in default.items():
                nested = _comments(file.parent / str(group) / f"{option}.yaml") if file.parent != config_dir() else {}
                found |= {f"{group}.{key}": comment for key, comment in nested.items()}
    path: list[tuple[int, str]] = []
    for line in file.read_text().splitlines():
        setting = _SETTING.fullmatch(line)
        if setting is None:
            continue
        path = [(depth, key) for depth, key in path if depth < len(setting["indent"])]
        path.append((len(setting["indent"]), setting["key"]))
        if setting["comment"]:
            found[".".join(key for _, key in path)] = setting["comment"]
    return found
