"""Packages from the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

from memo_lightning.errors import UserError

HUB = "hf:"
_REPOSITORY = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
_FILES = ["*.json", "*.safetensors", "*.md", "*.png", "*.mp4"]


def fetch_package(source: str) -> Path:
    """Download a package, or find it where it was downloaded to before.

    Args:
        source: ``hf:OWNER/NAME``, or ``hf:OWNER/NAME@REVISION``.

    Returns:
        Its folder, which is the Hub's cache and not to be written to.

    Raises:
        UserError: if there is none, or it cannot be reached.
    """
    match = _REPOSITORY.fullmatch(source.removeprefix(HUB))
    if match is None:
        raise UserError(f"checkpoint={source}: must be hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    hub = import_hub(source)
    try:
        return Path(hub.snapshot_download(match["repo"], revision=match["revision"], allow_patterns=_FILES))
    except Exception as error:  # of the Hub's client, of what it is built on, and of the disk
        raise UserError(
            f"checkpoint={source}: cannot be fetched from the Hugging Face Hub ({one_line(error)}); a private one "
            f"needs hf auth login"
        ) from None


def import_hub(what: str) -> ModuleType:
    """Return the client of the Hub.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise UserError(f"{what}: needs huggingface_hub: pip install 'memo-lightning[hub]'") from None
    return huggingface_hub


def one_line(error: Exception) -> str:
    """Return the first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
