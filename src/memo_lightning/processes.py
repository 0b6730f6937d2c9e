"""Processes that make up one run."""

from __future__ import annotations

import os
import threading
import time


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, however that came about.

    It would otherwise wait for ever: a rank in its next all-reduce, a worker for its next command.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
