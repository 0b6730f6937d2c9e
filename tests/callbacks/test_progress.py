"""Progress: what a terminal of 80 columns, a notebook and a file show of a training."""

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
import threading
import warnings
from contextlib import redirect_stderr
from types import ModuleType, SimpleNamespace

import lightning
import pytest
from tqdm import tqdm
from tqdm.notebook import tqdm as notebook_bar

from memo_lightning.callbacks import progress
from memo_lightning.callbacks.progress import FramesProgressBar, bar_class
from memo_lightning.training.learner import PolicyLearner


class Terminal:
    """A terminal of 80 columns in the place of stderr, which keeps what was written to it."""

    def __init__(self):
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.stream = os.fdopen(slave, "w")
        self.written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while not self.written.endswith(b"END"):
            self.written += os.read(self._master, 65536)

    def close(self):
        """Return what was written."""
        with self.stream as stream:
            stream.write("END")
        self._reader.join(10)
        os.close(self._master)
        return self.written.decode().replace("\r\n", "\n").removesuffix("END")


@pytest.fixture
def terminal():
    return Terminal()


class Learner(PolicyLearner):
    """What a progress bar knows of a learner."""

    in_rollout, data = False, None

    def __init__(self, data):
        lightning.LightningModule.__init__(self)
        self.data, self.frames = data, 0


def run(returns, then=lambda bar, trainer, learner: bar.teardown(trainer, learner, "fit"), total=2_560_000):
    """Train without training: a rollout for each return."""
    frames = total // len(returns)
    data = SimpleNamespace(frames_per_rollout=frames, n_rollouts_after=lambda done: len(returns))
    trainer, learner = SimpleNamespace(world_size=1, callback_metrics={}), Learner(data)
    bar = FramesProgressBar()
    bar.on_train_start(trainer, learner)
    if bar._bar is not None:
        bar._bar.mininterval = bar._bar.miniters = 0
    for value in returns:
        learner.frames += frames
        trainer.callback_metrics["train/return_per_trial"] = value
        for quarter in range(1, 5):
            trainer.callback_metrics[f"train/return_quarter_{quarter}"] = value / 4
        bar.on_train_batch_end(trainer, learner, None, None, 0)
    then(bar, trainer, learner)


@pytest.mark.parametrize("scale", [1.0, -1000.0, 1e9])
def test_a_terminal_of_80_columns_holds_all_and_a_bar(scale, terminal):
    with redirect_stderr(terminal.stream):
        run([scale * step for step in range(100)])
    drawn = re.split(r"[\r\n]+", terminal.close().strip())
    assert max(map(len, drawn)) < 80
    line = drawn[len(drawn) // 2]
    found = re.search(
        r" (\d+)%\|(.+)\| [\d.]+[kM]/2\.56M (\S+) left (\S+) frames/s, return (\S+) \((\S+)\)$", line.rstrip()
    )
    assert found, line
    assert len(found[2]) >= 8, "a bar that can be seen"


def test_the_trend_is_the_change_over_a_tenth_of_the_run(terminal):
    with redirect_stderr(terminal.stream):
        run([0.5 * step for step in range(100)])
    assert "return 49.5 (+5.0)" in terminal.close()


def test_the_bar_is_not_drawn_again_below_what_is_said_after_an_interruption(terminal):
    def interrupt(bar, trainer, learner):
        bar.on_exception(trainer, learner, KeyboardInterrupt())
        print("interrupted", file=sys.stderr)
        bar.teardown(trainer, learner, "fit")
        del bar

    with redirect_stderr(terminal.stream):
        run([1.0, 2.0, 3.0], interrupt)
    assert terminal.close().endswith("\ninterrupted\n")


def test_a_file_gets_lines_as_many_as_asked_for(capsys):
    run([1.0] * 100)
    lines = capsys.readouterr().err.splitlines()
    assert 19 <= len(lines) <= 21
    assert re.fullmatch(
        r" +2,560,000 of 2,560,000 frames \| [\d,]+ frames/s \| return/trial 1.00 \| by quarter 0.25 0.25 0.25 0.25",
        lines[-1],
    )


def test_lines_of_a_run_with_a_replay_say_how_much_it_learns():
    replay = {"update/updates": 1234.0, "replay/fill": 0.5}
    assert progress._describe(replay) == "no complete trial yet | 1,234 updates | replay 50% full"
    returns = {f"train/return_quarter_{quarter}": 1.0 for quarter in range(1, 5)} | {"train/return_per_trial": 4.0}
    described = progress._describe({**returns, **replay, "wall_clock/updates_per_second": 6.251})
    assert described.endswith("by quarter 1.00 1.00 1.00 1.00 | 1,234 updates (6.25/s) | replay 50% full")


@pytest.mark.parametrize("has_widgets", [True, False])
def test_a_notebook_has_its_own_bar_or_lines_and_no_warning(has_widgets, monkeypatch):
    class ZMQInteractiveShell:
        pass

    ipython = ModuleType("IPython")
    ipython.get_ipython = ZMQInteractiveShell
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: object() if has_widgets else None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bar_class() is (notebook_bar if has_widgets else None)


def test_libraries_that_want_widgets_do_not_warn():
    code = (
        "import warnings, memo_lightning, tqdm\n"
        "warnings.warn('IProgress not found. Please update jupyter and ipywidgets.', tqdm.TqdmWarning)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "IProgress" not in result.stderr


def test_a_terminal_has_a_bar_and_nothing_else_has(terminal, tmp_path):
    with redirect_stderr(terminal.stream):
        assert bar_class() is tqdm
    with (tmp_path / "log").open("w") as file, redirect_stderr(file):
        assert bar_class() is None
    terminal.close()
