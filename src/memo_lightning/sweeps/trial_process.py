"""The process of a trial, seen from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def start_trial_process(folder: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    """Start a trial's process, in a session of its own, out of reach of Ctrl-C; it ends when this process does."""
    with (folder / "output.log").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "memo_lightning.sweeps.trial", str(folder)],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def why_no_result(process: subprocess.Popen, folder: Path) -> str:
    """Return, in one line, why a process left no result."""
    if process.returncode < 0:
        return f"killed by {signal.Signals(-process.returncode).name}; see {folder / 'output.log'}"
    lines = (folder / "output.log").read_text(errors="replace").strip().splitlines()
    last = lines[-1] if lines else "no output"
    return f"exit status {process.returncode}: {last}; see {folder / 'output.log'}"
