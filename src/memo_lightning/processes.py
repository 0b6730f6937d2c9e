"""The processes that make up one run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar
from unittest import mock

from memo_lightning.errors import UserError

SECONDS_BETWEEN_LOOKS = 1.0
T = TypeVar("T")
UNGUARDED = 64  # exit status of a worker that runs its program again, for want of a main guard
GUARD = (
    "every worker process imports the program that started it; put the program's code under "
    '`if __name__ == "__main__":`'
)


def refuse_to_start_in_worker() -> None:
    """End this process if it is a worker that is about to repeat its program's work.

    A worker imports the program that started it, and so runs everything that is not under a main guard. The process
    that started the worker reports this; see :data:`GUARD`.
    """
    # The condition of multiprocessing's own check, which comes too late.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(UNGUARDED)  # a fork server would turn a SystemExit into another status


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, for whatever reason.

    It would otherwise wait forever: a rank in its next all-reduce, a worker for its next command.
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
    """Leave Ctrl-C, which reaches the whole process group, to the learning process, but end when that process does.

    This function is in this module because a worker imports the modules of its functions, and does not need Lightning,
    which takes seconds to import.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def start_watching(start: Callable[[], T]) -> T:
    """Call a function that starts worker processes and waits for them, until it returns or a worker ends.

    Raises:
        UserError: if a worker has begun to run this program again.
        RuntimeError: if a worker has ended otherwise.
    """
    workers: list[BaseProcess] = []
    started: list[T] = []
    start_process = BaseProcess.start

    def start_and_note(process: BaseProcess) -> None:
        start_process(process)
        workers.append(process)

    try:
        # Not by active_children(), which leaves out those that ended before it is called.
        with mock.patch.object(BaseProcess, "start", start_and_note):
            call_watching(workers, lambda: started.append(start()), seconds_between_looks=0.1)
    except BaseException:
        for worker in workers:
            worker.kill()
        if any(worker.exitcode == UNGUARDED for worker in workers):
            raise UserError(GUARD) from None
        raise
    return started[0]


def call_watching(
    workers: Sequence[BaseProcess],
    call: Callable[[], object],
    seconds_between_looks: float = SECONDS_BETWEEN_LOOKS,
) -> None:
    """Call a function that waits for all of the workers, until it returns or a worker ends.

    Args:
        workers: processes started by this one; more may be added during the call.
        call: the function that waits for them; if given up, it continues in a thread that ends with this process.
        seconds_between_looks: seconds between two checks of the workers.

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
    while not wait([outcome], timeout=seconds_between_looks).done:
        for number, worker in enumerate(workers):
            if not worker.is_alive():
                raise RuntimeError(f"worker {number} exited unexpectedly (exit status {worker.exitcode})")
    outcome.result()
