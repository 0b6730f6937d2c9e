"""Processes that make up one run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from multiprocessing.process import BaseProcess

SECONDS_BETWEEN_LOOKS = 1.0


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


def begin_worker() -> None:
    """Leave Ctrl-C, which whole process groups get, to the process that learns; but end when it does.

    It is here because a worker imports what its functions are in, and has no use for Lightning, which takes seconds.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def call_watching(workers: Sequence[BaseProcess], call: Callable[[], object]) -> None:
    """Call what waits for all of the workers, until it returns or one of them is gone.

    Args:
        workers: processes that this one has started.
        call: what waits for them; if it is given up, it goes on in a thread that ends with the process.

    Raises:
        RuntimeError: if a worker has ended before ``call`` has.
    """
    outcome: Future[object] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True, name="call-watching").start()
    while not wait([outcome], timeout=SECONDS_BETWEEN_LOOKS).done:
        for number, worker in enumerate(workers):
            if not worker.is_alive():
                raise RuntimeError(f"worker {number} has ended (exit status {worker.exitcode}) and is waited for")
    outcome.result()
