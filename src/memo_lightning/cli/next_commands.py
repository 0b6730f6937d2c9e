"""Suggestions for the next command, ready to be pasted into a shell."""

from __future__ import annotations

import os

from memo_lightning.overrides import command, override_text
from memo_lightning.tracking.store import EXPERIMENT_NAME, default_store, resolve_store, store_file


def compare_command(tracking_uri: str, experiment_name: str, *overrides: str) -> str:
    """Return the command that compares the runs of an experiment; it names store and experiment if not the default."""
    words = list(overrides)
    if experiment_name != (os.environ.get(EXPERIMENT_NAME) or "memo-lightning"):
        words.append(override_text("experiment_name", experiment_name))
    return command("memo", "compare", *words, *_at(tracking_uri))


def ui_commands(tracking_uri: str) -> list[str]:
    """Return the commands that show the runs of a store in the browser: none for a server, which does so itself."""
    return [command("memo", "ui", *_at(tracking_uri))] if store_file(tracking_uri) else []


def _at(tracking_uri: str) -> list[str]:
    is_default = resolve_store(tracking_uri) == resolve_store(default_store())
    return [] if is_default else [override_text("tracking_uri", tracking_uri)]
