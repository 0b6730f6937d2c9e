"""The process of a trial, as the study sees it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

from memo_lightning.sweeps import trial


class TrialProcess:
    """A process that runs a trial in its own session, out of reach of Ctrl-C, and ends when this process does.

    Args:
        folder: folder of the trial; its output goes to ``output.log`` there.
        environment: variables to add to those of this process.
        forked: whether to fork it from a server that has imported everything once, which saves each trial some
            seconds of computing. CUDA does not survive a fork, and Lightning starts further ranks by repeating the
            command of the first, so this is for single-process trials on the CPU.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, forked: bool) -> None:
        self._folder, variables = folder, {**os.environ, **environment}
        self._process: BaseProcess | subprocess.Popen = (
            _fork(folder, variables) if forked else _start_command(folder, variables)
        )

    @property
    def status(self) -> int | None:
        """The exit status, negative if a signal ended the process; None while it runs."""
        return self._process.exitcode if isinstance(self._process, BaseProcess) else self._process.poll()

    def wait(self) -> None:
        """Wait for the process to end."""
        if isinstance(self._process, BaseProcess):
            self._process.join()
        else:
            self._process.wait()

    def kill(self) -> None:
        """Kill the process and those that it has started, and wait for it to end."""
        if self.status is None and self._process.pid is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:  # just forked, it has no session of its own yet
                self._process.kill()
        self.wait()

    def why_no_result(self) -> str:
        """Return, in one line, why the process left no result."""
        log, status = self._folder / "output.log", self.status
        if status is not None and status < 0:
            return f"killed by {signal.Signals(-status).name}; see {log}"
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        return f"exit status {status}: {lines[-1] if lines else 'no output'}; see {log}"


def _fork(folder: Path, variables: dict[str, str]) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([trial.__name__])
    process = context.Process(target=trial.run_forked, args=(folder.absolute(), variables))
    process.start()
    return process


def _start_command(folder: Path, variables: dict[str, str]) -> subprocess.Popen:
    with (folder / "output.log").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", trial.__name__, str(folder)],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
