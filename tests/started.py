"""Commands that tests start as separate processes, and checks that no process is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest


def start(arguments, directory, **variables):
    """Start ``python -m arguments`` in ``directory``, which is on its path, as the leader of a new session."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(directory)]), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # to find processes it leaves behind
    )


def read_until(process, text, timeout=300):
    """Return the output of a process up to the first line that contains ``text``."""
    lines = []
    too_long = threading.Timer(timeout, os.killpg, [process.pid, signal.SIGKILL])
    too_long.start()
    try:
        for line in process.stdout:
            lines.append(line)
            if text in line:
                return "".join(lines)
    finally:
        too_long.cancel()
    end(process)
    pytest.fail(f"never printed {text!r}:\n{''.join(lines)}")


def session(leader):
    """Return the living processes of a session, including its leader."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


def end(process):
    """Kill all processes of a session."""
    for other in session(process):
        other.kill()
    process.wait()


def finish(process, timeout=120):
    """Wait for a process that must leave no other process behind, and return its output."""
    try:
        output, _ = process.communicate(timeout=timeout)
        for _ in range(50):
            if not session(process):
                return output
            time.sleep(0.1)
        raise AssertionError(f"processes left behind: {session(process)}\n{output}")
    finally:
        end(process)
