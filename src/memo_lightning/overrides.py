"""Overrides such as ``env.trial_length=100``: reading them, and writing them so that a shell accepts them."""

from __future__ import annotations

import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from memo_lightning.errors import UserError

# Settings whose value is a path or the address of a store, by the last part of their name. They are taken literally: in
# Hydra's grammar, `=`, `#`, spaces, commas and letters outside ASCII mean something else or are not allowed.
_PATHS = frozenset(
    (
        *("checkpoint", "data_path", "evaluation", "folder", "object_folder", "out", "resume", "run_dir"),
        *("scene_dataset", "storage", "token", "tracking_uri"),
    )
)
# Settings whose value is a name, even if it looks like a number (2024); and mappings whose values are names.
_NAMES = frozenset(("experiment_name", "group_by", "logger.experiment_name", "logger.run_name", "name", "study"))
_OF_NAMES = ("logger.tags.", "tags.")
_KEY = re.compile(r"\+{0,2}[\w./-]+")


def parse_override(text: str) -> Override:
    """Parse an override, by Hydra's grammar where possible.

    Paths need no quotes, and neither does text with characters that the grammar does not know, or a name that looks
    like a number. A ``+`` before the name is dropped: whether a setting exists or is new is determined later.

    Raises:
        UserError: if it is not ``key=value``, its value cannot be read, or it stands for several values or for none.
    """
    key, equals, value = text.partition("=")
    if not equals:
        hint = "; a setting cannot be removed" if text.startswith("~") else ""
        raise UserError(f"override {text!r}: must have the form key=value{hint}")
    if not _KEY.fullmatch(key):
        raise UserError(
            f"override {text!r}: must have the form key=value, with a key of letters, digits, '_', '-', '.' and '/'; "
            f"write other names in a mapping, e.g. 'logger.tags={{my note: first}}'"
        )
    key = key.lstrip("+")
    if _is_path(key, value):
        return _parse(f"{key}={quoted(value)}", text)
    try:
        override = OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        if value[:1] in ("[", "{", "(", "'", '"'):
            raise UserError(
                f"override {text!r}: must have the form key=value; the value has unclosed brackets or quotes, or "
                f"text in it needs quotes"
            ) from None
        return _parse(f"{key}={quoted(value)}", text)
    if override.is_sweep_override():
        raise UserError(
            f"override {text!r}: must be one value; for a list write {shlex.quote(f'{key}=[{value}]')}, for text with "
            f"commas {shlex.quote(f'{key}={quoted(value)}')}; memo sweep tries several values"
        )
    if isinstance(override.value(), bool | int | float) and (key in _NAMES or key.startswith(_OF_NAMES)):
        return _parse(f"{key}={quoted(value)}", text)
    return override


def override_key(text: str) -> str:
    """Return the key that an override such as ``algorithm.gamma=0.9`` changes.

    Raises:
        UserError: if it cannot be parsed.
    """
    return parse_override(text).key_or_group


def override_text(key: str, value: str) -> str:
    """Return the override that sets ``key`` to the text ``value``, quoted only if needed.

    Example:
        >>> override_text("run_dir", "runs/rate=0.1")
        'run_dir=runs/rate=0.1'
        >>> override_text("env.id", "2024")
        "env.id='2024'"
    """
    plain = f"{key}={value}"
    try:
        if parse_override(plain).value() == value:
            return plain
    except UserError:
        pass
    return f"{key}={quoted(value)}"


def command(*words: str) -> str:
    """Return a command as it would be typed into a shell."""
    return shlex.join(words)


def _parse(text: str, original: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        raise UserError(f"override {original!r}: must have the form key=value") from None


def quoted(value: str) -> str:
    """Return text quoted by Hydra's grammar, whatever it contains."""
    return QuotedString(value, Quote.single).with_quotes()


def _is_path(key: str, value: str) -> bool:
    is_path = key.rpartition(".")[2] in _PATHS or (key == "experiment" and value.endswith(".yaml"))
    if not is_path or value in ("", "null"):
        return False
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in ("'", '"')
    return not is_quoted and "${" not in value
