"""Where runs are kept."""

from __future__ import annotations

from pathlib import Path

_SQLITE = "sqlite:///"


def resolve_store(uri: str) -> str:
    """Return ``uri`` with a relative SQLite path made absolute, so that it means the same from any directory."""
    return f"{_SQLITE}{store_file(uri)}" if store_file(uri) else uri


def store_file(uri: str) -> Path | None:
    """Return the database file of an SQLite store, None for other stores."""
    return Path(uri.removeprefix(_SQLITE)).absolute() if uri.startswith(_SQLITE) else None
