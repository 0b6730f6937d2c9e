"""Backup of the trials that a replay has overwritten since the last checkpoint, so that a resumed run finds them."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from memo_lightning.files import write_atomically


class Overwritten:
    """Copies on disk of trials that were overwritten, kept until a checkpoint without them is safe.

    Args:
        folder: where to keep the copies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, trials: TensorDictBase, index: Tensor, n_added: int) -> None:
        """Copy the trials ``index [n]`` of a flat storage to which ``n_added`` trials have been added so far.

        Raises:
            OSError: if they cannot be written.
        """
        if not len(index):
            return
        self.folder.mkdir(exist_ok=True)
        content = io.BytesIO()
        torch.save({"index": index, "trials": {key: value.clone() for key, value in trials[index].items()}}, content)
        write_atomically(self.folder / f"{n_added}.pt", content.getbuffer())

    def put_back(self, trials: TensorDictBase, n_added: int) -> None:
        """Restore a storage to its state after ``n_added`` trials had been added."""
        numbers = sorted((int(path.stem) for path in self.folder.glob("*.pt")), reverse=True)
        for number in numbers:
            if number >= n_added:
                kept = torch.load(self.folder / f"{number}.pt", weights_only=True)
                trials[kept["index"]] = TensorDict(kept["trials"], trials[kept["index"]].batch_size)

    def forget(self) -> None:
        """Delete all copies, as the newest checkpoint is safe."""
        shutil.rmtree(self.folder, ignore_errors=True)
