"""What a replay has overwritten since the last checkpoint, so that a run that is resumed finds what it had."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from memo_lightning.files import write_atomically


class Overwritten:
    """Keeps trials on disk before others take their place, until a checkpoint without them is safe.

    Args:
        folder: where to keep them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, trials: TensorDictBase, index: Tensor, n_added: int) -> None:
        """Keep the trials ``index [n]`` of a flat storage that ``n_added`` trials have been added to.

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
        """Undo in a storage what was done after ``n_added`` trials had been added to it."""
        numbers = sorted((int(path.stem) for path in self.folder.glob("*.pt")), reverse=True)
        for number in numbers:
            if number >= n_added:
                kept = torch.load(self.folder / f"{number}.pt", weights_only=True)
                trials[kept["index"]] = TensorDict(kept["trials"], trials[kept["index"]].batch_size)

    def forget(self) -> None:
        """Keep nothing of before: the newest checkpoint is safe."""
        shutil.rmtree(self.folder, ignore_errors=True)
