"""Silencing of libraries."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from warnings import catch_warnings, simplefilter


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress printing, logging and warnings in the block; exceptions pass."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere), catch_warnings():
        simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
