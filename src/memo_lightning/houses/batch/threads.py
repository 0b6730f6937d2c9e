"""Running a kernel over rows in several threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from memo_lightning.errors import require


class Threads:
    """Threads that share the rows of compiled kernels, which release the GIL.

    Every kernel takes, after its own arguments, the first row to process and the stride. Rows are independent, so
    results do not depend on the number of threads. These are Python threads because numba's own can neither be used
    from two threads at once nor survive a fork.

    Args:
        n_threads: number of threads, including the calling one.

    Raises:
        UserError: if ``n_threads`` is less than 1.
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
