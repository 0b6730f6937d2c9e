"""Atomic writing of files, which are never seen half-written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write ``content`` to a file beside ``path``, which then replaces ``path`` in one step.

    Whenever the process or the machine stops, or if the disk is full, ``path`` holds either the old or the new content.

    Args:
        path: the file.
        content: its whole content.

    Raises:
        OSError: if it cannot be written; the old content stays.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # a machine that loses power must not be left with an empty file
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
