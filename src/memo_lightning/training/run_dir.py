"""The folder of a run."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from memo_lightning.errors import UserError
from memo_lightning.files import write_atomically
from memo_lightning.overrides import command, override_text
from memo_lightning.tracking import environment_name


def checkpoint_path(run_dir: Path) -> Path:
    """Return where the checkpoint of the run in ``run_dir`` is."""
    return run_dir / "checkpoints" / "last.ckpt"


def default_run_dir(config: DictConfig) -> Path:
    """Return ``runs/<time>-<env>-<memory>-seed<seed>``, which says what the run is and does not exist yet."""
    environment = re.sub(r"[^\w.]+", "-", environment_name(config))
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{environment}-{config.choices.baseline}-seed{config.seed}"
    candidates = [Path("runs") / name, *(Path("runs") / f"{name}-{k}" for k in range(2, 1000))]
    return next(path for path in candidates if not path.exists())


def check_run_dir(run_dir: Path) -> None:
    """Check that a new run may be written to ``run_dir``, without writing anything.

    Raises:
        UserError: if it holds a run already, is no directory, or cannot be written.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"run_dir={run_dir}: must be a directory, not a file")
    if checkpoint_path(run_dir).exists():
        again = command(override_text("resume", str(run_dir)))
        raise UserError(f"run_dir={run_dir}: already holds a run; resume it with {again}, or name another")
    parent = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"run_dir={run_dir}: must be writable, and {parent} is not")


def reported_frames(run_dir: Path) -> int:
    """Return after how many frames the run in ``run_dir`` has come to an end and reported on it; 0 if it has not."""
    try:
        return json.loads((run_dir / "metrics.json").read_text())["frames"]
    except (OSError, ValueError, KeyError):
        return 0


@contextmanager
def claimed_run_dir(run_dir: Path) -> Iterator[None]:
    """Make the folder, and keep other processes from training in it during the block.

    Folders that are empty afterwards, as of a run that could not begin, are taken away again if they were made here.

    Raises:
        UserError: if it cannot be made, or another process is training in it.
    """
    checkpoints = run_dir / "checkpoints"
    made = [folder for folder in (checkpoints, *checkpoints.parents) if not folder.exists()]
    lock = FileLock(run_dir / "run.lock", timeout=0)  # freed by the system, however its process ends
    try:
        try:
            checkpoints.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise UserError(f"run_dir={run_dir}: another process is training in it; wait for it, or stop it") from None
        except OSError as error:
            raise UserError(f"run_dir={run_dir}: must be writable ({error.strerror})") from None
        yield
    finally:
        if lock.is_locked:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def write_config(config: DictConfig, run_dir: Path) -> None:
    """Write ``config.yaml``, unresolved: values on which others depend can be changed when the run is resumed.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        write_atomically(run_dir / "config.yaml", OmegaConf.to_yaml(config))
    except OSError as error:
        raise UserError(f"run_dir={run_dir}: must be writable ({error.strerror})") from None
