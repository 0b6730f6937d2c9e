"""The folder of a run."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from memo_lightning.errors import UserError
from memo_lightning.files import write_atomically
from memo_lightning.overrides import command, override_text
from memo_lightning.tracking import run_name

_RUNS = Path("runs")  # where runs are kept by default
_CONFIG = "config.yaml"


def checkpoint_path(run_dir: Path) -> Path:
    """Return the path of the checkpoint of the run in ``run_dir``."""
    return run_dir / "checkpoints" / "last.ckpt"


@contextmanager
def chosen_run_dir(config: DictConfig) -> Iterator[Path]:
    """Fill in ``config.run_dir`` where it is null: ``runs/<memory>-<environment>-s<seed>-<time>``.

    The folder is created as soon as its name is chosen, so that several commands within one second each get their own.
    It is removed again if it is empty at the end of the block, for example after a mistake in the configuration.

    Args:
        config: a configuration of ``memo train``, which is changed in place.

    Yields:
        The folder.

    Raises:
        UserError: if it cannot be created.
    """
    if config.run_dir is not None:
        config.run_dir = str(config.run_dir)  # a name may be a number
        yield Path(config.run_dir)
        return
    made = [] if _RUNS.exists() else [_RUNS]
    folder = new_run_dir(run_name(config), make=_is_first_process())
    config.run_dir = str(folder)
    try:
        yield folder
    finally:
        _remove_empty([folder, *made])


def new_run_dir(name: str, *, make: bool = True) -> Path:
    """Create and return ``runs/<name>-<time>``, or the next such folder whose name is free.

    Args:
        name: the start of the folder's name.
        make: whether to create it, or only to find a free name.

    Raises:
        UserError: if it cannot be created.
    """
    name = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folders = (_RUNS / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    if not make:
        return next(folder for folder in folders if not folder.exists())
    try:
        _RUNS.mkdir(exist_ok=True)
        return next(folder for folder in folders if _make(folder))
    except OSError as error:
        reason = f"{_RUNS.absolute()} cannot be written ({error.strerror}); name another folder with run_dir=PATH"
        raise UserError(f"run_dir=null: {reason}") from None


def check_run_dir(run_dir: Path) -> None:
    """Check that a new run may be written to ``run_dir``, without writing anything.

    Raises:
        UserError: if it already holds a run, is not a directory, or cannot be written.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"run_dir={run_dir}: must be a directory, not a file")
    if checkpoint_path(run_dir).exists():
        again = command(override_text("resume", str(run_dir)))
        raise UserError(f"run_dir={run_dir}: already contains a run; resume it with {again}, or choose another folder")
    parent = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"run_dir={run_dir}: must be writable, and {parent} is not")


def reported_frames(run_dir: Path) -> int:
    """Return the number of frames at which the run in ``run_dir`` ended and reported; 0 if it has not."""
    try:
        return json.loads((run_dir / "metrics.json").read_text())["frames"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0


@contextmanager
def claimed_run_dir(run_dir: Path) -> Iterator[None]:
    """Create the folder, and keep other processes from training in it during the block.

    If it holds nothing but ``config.yaml`` afterwards, for example because the workers could not start, that file is
    removed if it was written here, and then the folders that were created here.

    Raises:
        UserError: if it cannot be created, or another process is training in it.
    """
    checkpoints, config = run_dir / "checkpoints", run_dir / _CONFIG
    is_new = not config.exists()
    made = [folder for folder in (checkpoints, *checkpoints.parents) if not folder.exists()]
    lock = FileLock(run_dir / "run.lock", timeout=0)  # the system releases it, however the process ends
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
        with suppress(OSError):
            if is_new and {*run_dir.iterdir(), *checkpoints.iterdir()} == {config, checkpoints}:
                config.unlink()
        _remove_empty(made)


def write_config(config: DictConfig, run_dir: Path) -> None:
    """Write ``config.yaml`` unresolved, so that values on which others depend can be changed when the run is resumed.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        write_atomically(run_dir / _CONFIG, OmegaConf.to_yaml(config))
    except OSError as error:
        raise UserError(f"run_dir={run_dir}: must be writable ({error.strerror})") from None


def _is_first_process() -> bool:
    """Return whether this process writes for all processes of its run; works before there is a Trainer."""
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


def _make(folder: Path) -> bool:
    """Create a folder, and return whether it is new."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove the folders that are empty, in the given order."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
