"""Processes that make up one run."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, however that came about.

    It would otherwise wait for ever: a rank in its next all-reduce, a worker for its next command.
    """
    starter = multiprocessing.parent_process()  # not always the parent: a fork server may stand between
    parent = os.getppid()

    def watch() -> None:
        if starter is not None:
            starter.join()
        else:
            while os.getppid() == parent:
                time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
