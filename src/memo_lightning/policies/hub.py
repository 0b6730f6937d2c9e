"""Packages from the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

from memo_lightning.errors import UserError
from memo_lightning.wording import one_line

HUB = "hf:"
_REPOSITORY = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
_FILES = ["*.json", "*.safetensors", "*.md", "*.png", "*.mp4"]


def fetch_package(source: str) -> Path:
    """Download a package, unless it was downloaded before.

    Args:
        source: ``hf:OWNER/NAME``, or ``hf:OWNER/NAME@REVISION``.

    Returns:
        Its folder in the Hub's cache, which must not be written to.

    Raises:
        UserError: if there is no such package, or it cannot be fetched.
    """
    match = _REPOSITORY.fullmatch(source.removeprefix(HUB))
    if match is None:
        raise UserError(f"checkpoint={source}: must be hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    hub = import_hub(source)
    try:
        return Path(hub.snapshot_download(match["repo"], revision=match["revision"], allow_patterns=_FILES))
    except Exception as error:  # from the Hub's client, its dependencies or the disk
        raise UserError(
            f"checkpoint={source}: cannot be fetched from the Hugging Face Hub ({one_line(error)}); if it is "
            f"private, run hf auth login"
        ) from None


def import_hub(what: str) -> ModuleType:
    """Import and return the Hub's client, ``huggingface_hub``.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise UserError(f"{what}: needs huggingface_hub: pip install 'memo-lightning[hub]'") from None
    return huggingface_hub
