"""Progress of a training, as shown in a terminal of 80 columns, a notebook and a file."""

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
from memo_lightning.errors import UserError
from memo_lightning.training.learner import PolicyLearner
from tiny import FEW_UPDATES, TINY_OFF_POLICY, TINY_TRAINING


class Terminal:
    """A terminal that replaces stderr and keeps what is written to it."""

    def __init__(self, columns=80):
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(slave, "w")
        self.written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while not self.written.endswith(b"END"):
            self.written += os.read(self._master, 65536)

    def close(self):
        """Close the terminal and return what was written."""
        with self.stream as stream:
            stream.write("END")
        self._reader.join(10)
        os.close(self._master)
        return self.written.decode().replace("\r\n", "\n").removesuffix("END")


@pytest.fixture
def terminal():
    return Terminal()


class Learner(PolicyLearner):
    """The part of a learner that a progress bar reads."""

    in_rollout, data = False, None

    def __init__(self, data):
        lightning.LightningModule.__init__(self)
        self.data, self.frames = data, 0


def run(
    returns, then=lambda bar, trainer, learner: bar.teardown(trainer, learner, "fit"), total=2_560_000, replay=False
):
    """Simulate a training with one rollout per return, and optionally a replay that fills up halfway."""
    frames = total // len(returns)
    data = SimpleNamespace(frames_per_rollout=frames, n_rollouts_after=lambda done: len(returns))
    trainer, learner = SimpleNamespace(world_size=1, callback_metrics={}), Learner(data)
    bar = FramesProgressBar()
    bar.on_train_start(trainer, learner)
    if bar._bar is not None:
        bar._bar.mininterval = bar._bar.miniters = 0
    for value in returns:
        learner.frames += frames
        if value is not None:
            trainer.callback_metrics["train/return_per_trial"] = value
        if replay:
            done = learner.frames / total
            trainer.callback_metrics |= {"update/updates": 20_000 * done, "replay/fill": min(1.0, 2 * done)}
        for quarter in range(1, 5):
            trainer.callback_metrics[f"train/return_quarter_{quarter}"] = (value or 0.0) / 4
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


def drawn_in(columns, returns, **settings):
    """Return the states of the bar in a terminal of this width."""
    terminal = Terminal(columns)
    with redirect_stderr(terminal.stream):
        run(returns, **settings)
    return [line.rstrip() for line in re.split(r"[\r\n]+", terminal.close().strip())]


def test_80_columns_hold_what_a_run_with_a_replay_learns():
    drawn = drawn_in(80, [0.5 * step for step in range(100)], replay=True)
    assert max(map(len, drawn)) < 80
    assert re.search(
        r"\|.{4,}\| \S+ left \S+ frames/s, return 12\.0 ↑, 5\.00k updates, replay 50%$", drawn[len(drawn) // 4]
    ), drawn[len(drawn) // 4]
    assert drawn[-1].endswith("return 49.5 ↑, 20.0k updates, replay 100%")


def test_before_the_first_trial_is_over_a_replay_fills():
    drawn = drawn_in(80, [None] * 10, replay=True)
    assert re.search(r"\| \S+ left \S+ frames/s, 10\.0k updates, replay 100%$", drawn[5]), drawn[5]


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("columns", [20, 30, 40, 60, 80, 100, 120, 200])
def test_a_bar_is_never_wider_than_the_terminal_and_says_what_there_is_room_for(columns, replay):
    drawn = drawn_in(columns, [-123456.0 * step for step in range(30)], replay=replay, total=250_000_000)
    assert max(map(len, drawn)) <= columns
    assert all("|" in line for line in drawn if line)
    last = drawn[-1]
    for width, words in ((30, "left"), (60, "return -3,580,224"), (80, "frames/s"), (120, "M/250M")):
        if columns >= width:
            assert words in last, last
    if columns == 200:
        assert re.search(r"\(-[\d,]+\) █▇▆▅▄▃▂▁", last), last
        assert ("updates, replay 100%" in last) is replay


@pytest.mark.slow
@pytest.mark.parametrize("settings", [[*TINY_TRAINING, *FEW_UPDATES], TINY_OFF_POLICY], ids=["ppo", "actor_critic"])
def test_a_training_on_a_terminal_of_80_columns_shows_its_bar(settings, tmp_path):
    terminal = Terminal()
    command = ["memo_lightning.cli.main", "train", *settings, "total_frames=6400", "logger=none", "run_dir=run"]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path, env=variables, stdout=subprocess.DEVNULL, stderr=terminal.stream, check=True, timeout=300,
    )  # fmt: skip
    drawn = [line.rstrip() for line in re.split(r"[\r\n]+", terminal.close())]
    bars = [line for line in drawn if re.search(r"\|.*\| .* left", line)]
    assert max(map(len, bars)) < 80
    wanted = r"frames/s, return \S+ (\(\S+\)|[↑→↓])" + (
        r".*, \d+ updates, replay \d+%" if settings is TINY_OFF_POLICY else ""
    )
    assert re.search(wanted, bars[-1]), bars


def test_a_terminal_of_plain_characters_gets_no_others():
    bar = tqdm(total=10, file=open(os.devnull, "w"), ascii=True, ncols=200)  # noqa: SIM115 - the bar writes to it
    callback = FramesProgressBar()
    callback._total = 10
    for frames, value in enumerate([1.0, 2.0]):
        callback._note(frames, value)
    callback._lay_out(bar, {})
    assert bar.postfix == "return 2.00 (+1.00)"
    assert str(bar).isascii()


@pytest.mark.parametrize(
    ("values", "line"),
    [([1.0], "▁"), ([0.0, 1.0], "▁█"), (list(range(8)), "▁▂▃▄▅▆▇█"), ([5.0] * 40, "▁" * 8), ([3, 1], "█▁")],
)
def test_a_line_of_returns_goes_from_the_lowest_to_the_highest(values, line):
    assert progress._sparkline(values) == line


def test_an_arrow_tells_up_from_down_and_from_steady():
    assert [progress._direction(*pair) for pair in [(2, 1), (1, 2), (100.5, 100), (-2, -1)]] == ["↑", "↓", "→", "↓"]


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


def test_no_lines_at_all_are_refused_with_how_to_have_none():
    message = r"^callbacks\.progress\.lines=0: must be at least 1; callbacks\.progress=null prints none$"
    with pytest.raises(UserError, match=message):
        FramesProgressBar(lines=0)
