"""Waiting threads spin on idle cores and sleep if other programs use the cores."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from memo_lightning.callbacks.shared_cores import SleepingThreads, seconds_used

BUSY = "while True: pass"


def spinning():
    """Return the CPU seconds used on all cores while this thread sleeps after short operations."""
    x = torch.ones(200_000)
    used = 0.0
    for _ in range(100):
        x.sum()
        begin = time.process_time()
        time.sleep(0.003)
        used += time.process_time() - begin
    return used


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP is part of torch's wheels for Linux only")
def test_threads_that_wait_sleep_from_begin_to_end():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count())
    try:
        waiting, before = SleepingThreads(), spinning()
        waiting.begin()
        waiting.begin()
        during = spinning()
        waiting.end()
        waiting.end()
        after = spinning()
    finally:
        torch.set_num_threads(n_threads)
    assert during < 0.3 * before
    assert during < 0.3 * after


@pytest.mark.parametrize("is_ours", [True, False], ids=["started-by-this-program", "of-another-program"])
def test_what_other_programs_use_is_told_from_ones_own(is_ours):
    command = f"exec {sys.executable} -c '{BUSY}'" if is_ours else f"{sys.executable} -c '{BUSY}' & echo $!"
    shell = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, text=True)
    pid = shell.pid if is_ours else int(shell.stdout.readline())
    try:
        if not is_ours:
            shell.wait()  # the program it started loses its parent
        all_before, own_before = seconds_used()
        time.sleep(1.5)
        all_after, own_after = seconds_used()
    finally:
        os.kill(pid, signal.SIGKILL)
        shell.stdout.close()
        shell.wait()
    assert all_after - all_before > 0.3
    assert (own_after - own_before > 0.3) == is_ours
