"""Atomic checkpoint writing, so that the last good checkpoint is never lost."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from memo_lightning.files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint writer that replaces the old file in one step.

    If a checkpoint cannot be written, for example on a full disk, this is reported once and the run continues: the
    old checkpoint stays, and the next attempt may succeed.

    Attributes:
        error: why the latest checkpoint could not be written; None if it was written.
    """

    def __init__(self) -> None:
        self.error: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            write_atomically(path, content.getbuffer())
        except OSError as error:
            if self.error is None:
                print(f"\n{path}: cannot be written ({error.strerror}); keeping the last checkpoint", file=sys.stderr)
            self.error = error.strerror or str(error)
        else:
            if self.error is not None:
                print(f"\n{path}: can be written again", file=sys.stderr)
            self.error = None
