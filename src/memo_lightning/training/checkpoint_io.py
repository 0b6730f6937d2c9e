"""Writing checkpoints so that the last good one is never lost."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from memo_lightning.files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one, whose place it then takes in one step.

    A checkpoint that cannot be written, as on a full disk, is said once and does not end the run: the old one
    stays, and the next attempt may succeed.

    Attributes:
        error: why the latest checkpoint could not be written; None if it was.
    """

    def __init__(self) -> None:
        self.error: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``path``."""
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            write_atomically(path, content.getbuffer())
        except OSError as error:
            if self.error is None:
                print(f"\n{path}: cannot be written ({error.strerror}); keeping the last one", file=sys.stderr)
            self.error = error.strerror or str(error)
        else:
            if self.error is not None:
                print(f"\n{path}: written again", file=sys.stderr)
            self.error = None
