"""Storage of studies: a journal file for one machine, PostgreSQL for several."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import SQLAlchemyError

from memo_lightning.errors import UserError, require
from memo_lightning.wording import one_line

_POSTGRES = "postgresql://"
_CONNECT_SECONDS = 10
# Optuna logs every trial that it is told about, and alembic every table that it creates.
optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
logging.getLogger("alembic").setLevel(logging.ERROR)


class _FileLock(JournalFileOpenLock):
    """A lock that the system releases when its holder dies; Optuna's own outlive a killed process by 30 seconds."""

    def __init__(self, path: str) -> None:
        self._lock = FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()


def open_storage(location: str) -> BaseStorage:
    """Open a study's storage, which is created if it does not exist.

    Args:
        location: path of a file, or ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE``.

    Raises:
        UserError: if it is of an unsupported kind, does not answer, or cannot be written.
    """
    if location.startswith(_POSTGRES):
        return _open_postgres(location)
    if "://" in location:
        raise UserError(f"storage={location}: must be a file, or postgresql://USER@HOST/DATABASE")
    path = Path(location)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_journal(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_FileLock(str(path))))
    except OSError as error:
        raise UserError(f"storage={location}: cannot be used ({error.strerror})") from None


def _check_journal(path: Path) -> None:
    """Reject a file that is not a journal; Optuna would notice only after writing to it."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        try:
            fits = "op_code" in json.loads(file.readline())
        except (ValueError, TypeError):
            fits = False
    require(fits, "storage", str(path), "a new file, or one written by memo sweep")


def _open_postgres(location: str) -> RDBStorage:
    try:
        return RDBStorage(
            location.replace(_POSTGRES, "postgresql+psycopg://", 1),
            # A connection that the server has dropped, for example on a restart, is replaced before it is used.
            engine_kwargs={"pool_pre_ping": True, "connect_args": {"connect_timeout": _CONNECT_SECONDS}},
        )
    except ImportError:
        raise UserError(f"storage={location}: needs psycopg; pip install 'memo-lightning[postgres]'") from None
    except (SQLAlchemyError, ValueError) as error:
        raise UserError(f"storage={location}: cannot be reached ({one_line(error)})") from None
