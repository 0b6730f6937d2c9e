"""Running a kernel over rows in several threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from memo_lightning.errors import require


class Threads:
    """Threads that share the rows of compiled kernels, which release the interpreter's lock.

    Every kernel takes, after its own arguments, the first row and the stride of those that it is to do. Rows are
    independent of each other, so results do not depend on the number of threads. Threads of Python instead of numba's
    own: those may neither be used from two threads at once nor survive a fork.

    Args:
        n_threads: that work at a time, this one included.

    Raises:
        UserError: if there is to be none.
    """

    def __init__(self, n_threads: int) -> None:
        require(n_threads >= 1, "n_threads", n_threads, "at least 1")
        self.n_threads = n_threads
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0

    def run(self, kernel: Callable[..., None], *args: Any) -> None:
        """Run ``kernel`` over all rows, and return when it is done."""
        n = self.n_threads
        others = [self._pool().submit(kernel, *args, first, n) for first in range(1, n)]
        kernel(*args, 0, n)
        for other in others:
            other.result()

    def _pool(self) -> ThreadPoolExecutor:
        if self._executor is None or self._process != os.getpid():  # a forked process has no threads
            self._executor = ThreadPoolExecutor(self.n_threads - 1, thread_name_prefix="houses")
            self._process = os.getpid()
        return self._executor
