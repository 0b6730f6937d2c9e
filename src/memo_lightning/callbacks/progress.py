"""Progress in frames: a bar on a terminal and in a notebook, occasional lines elsewhere."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from memo_lightning.errors import require
from memo_lightning.training.learner import PolicyLearner
from memo_lightning.wording import returns_in_words

# Formats of the bar, from the longest to the shortest; tqdm gives the rest of the line to the bar itself.
_FULL = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {remaining} left {rate_fmt}{postfix}"
_SHORT = "{percentage:3.0f}%|{bar}| {remaining} left {rate_fmt}{postfix}"
_SHORTER = "|{bar}| {remaining} left {rate_fmt}{postfix}"
_SHORTEST = "|{bar}| {remaining} left{postfix}"
_BAR_CELLS = {_FULL: 8, _SHORT: 8, _SHORTER: 4, _SHORTEST: 4}  # minimum width of the bar
_TREND = 0.1  # fraction of the run over which the trend is measured
_STEADY = 0.01  # fraction of a return below which a change counts as none
_SPARKS = "▁▂▃▄▅▆▇█"


def bar_class() -> type[tqdm] | None:
    """Return the progress bar for a terminal or a notebook, or None where only whole lines can be shown."""
    if sys.stderr.isatty():
        return tqdm
    # tqdm's own choice between them warns where ipywidgets is missing.
    if _in_notebook() and importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as notebook_bar

        return notebook_bar
    return None


def _room_for_interrupt(stream: Any) -> tuple[int, int]:
    """Return the columns and lines of a terminal, less the columns of ``^C``, which would start a new line."""
    size = os.get_terminal_size(stream.fileno())
    return size.columns - len("^C"), size.lines


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")  # a notebook has imported it
    shell = ipython.get_ipython() if ipython else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class FramesProgressBar(ProgressBar):
    """Progress bar that shows frames, the time left, frames/s, and the return per trial with its trend.

    The trend is the change over the last tenth of the run; a sparkline of the returns so far is added where there is
    room, and only an arrow is shown where there is little. For a run with a replay, the bar also shows the updates so
    far and how full the replay is. A bar is never wider than the terminal: what does not fit is left out, the least
    important first.

    Without a bar, lines are printed. They also show the return by quarter of the trial and, with a replay, the updates
    per second.

    Args:
        lines: number of lines to print over the whole run where there is no bar.
    """

    def __init__(self, lines: int = 20) -> None:
        require(lines >= 1, "callbacks.progress.lines", lines, "at least 1; callbacks.progress=null prints none")
        super().__init__()
        self.lines = lines
        self._bar: tqdm | None = None
        self._enabled = True
        self._returns: deque[tuple[int, float]] = deque()  # frames and return per trial, of the last tenth of the run
        self._all_returns: list[float] = []

    def disable(self) -> None:
        """Show nothing; Lightning calls this on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress again."""
        self._enabled = True

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Open the bar."""
        assert isinstance(pl_module, PolicyLearner)
        data = pl_module.data
        frames_per_rollout = data.frames_per_rollout * trainer.world_size
        self._total = pl_module.frames + data.n_rollouts_after(pl_module.frames) * frames_per_rollout
        self._start, self._first_frame = time.perf_counter(), pl_module.frames
        self._next_line = 0.0
        self._returns.clear()
        self._all_returns.clear()
        bar = bar_class() if self._enabled else None
        if bar:
            self._bar = bar(
                total=self._total,
                initial=pl_module.frames,
                unit=" frames",
                unit_scale=True,
                dynamic_ncols=True,
                bar_format=_FULL,
            )
            if sys.stderr.isatty():
                self._bar.dynamic_ncols = _room_for_interrupt  # type: ignore[assignment]  # tqdm calls it

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Show the metrics of the rollout."""
        assert isinstance(pl_module, PolicyLearner)
        frames = pl_module.frames
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._bar is not None:
            if "train/return_per_trial" in metrics and not pl_module.in_rollout:
                self._note(frames, metrics["train/return_per_trial"])
            self._lay_out(self._bar, metrics)
            self._bar.update(frames - self._bar.n)
        elif self._enabled and (frames >= self._next_line or frames >= self._total):
            self._next_line = frames + self._total / self.lines
            speed = (frames - self._first_frame) / (time.perf_counter() - self._start)
            print(
                f"{frames:>12,} of {self._total:,} frames | {speed:,.0f} frames/s | {_describe(metrics)}",
                file=sys.stderr,
            )

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar at once: closed later, it would be drawn again below what was printed in the meantime."""
        self._close()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _note(self, frames: int, value: float) -> None:
        """Record the return per trial, for the trend."""
        self._all_returns.append(value)
        self._returns.append((frames, value))
        while frames - self._returns[0][0] > _TREND * self._total:
            self._returns.popleft()

    def _lay_out(self, bar: tqdm, metrics: dict[str, float]) -> None:
        """Make the bar show as much as there is room for."""
        for bar_format, parts in self._layouts(metrics, with_signs=not bar.ascii):
            bar.bar_format = bar_format
            bar.set_postfix_str(", ".join(parts), refresh=False)
            shown = {**bar.format_dict, "bar_format": bar_format.replace("{bar}", "")}
            if not shown["ncols"] or len(bar.format_meter(**shown)) + _BAR_CELLS[bar_format] <= shown["ncols"]:
                return

    def _layouts(self, metrics: dict[str, float], *, with_signs: bool) -> Iterator[tuple[str, list[str]]]:
        """Yield formats of the bar and the parts that follow it, from the longest to the shortest."""
        learning = []
        if "replay/fill" in metrics:
            n_updates = metrics.get("update/updates", 0.0)
            updates = tqdm.format_sizeof(n_updates) if n_updates >= 1000 else f"{n_updates:.0f}"
            learning = [f"{updates} updates", f"replay {metrics['replay/fill']:.0%}"]
        if not self._all_returns:
            yield from ((bar_format, learning) for bar_format in (_FULL, _SHORT, _SHORTER))
            yield _SHORTEST, []
            return
        value, before = self._returns[-1][1], self._returns[0][1]
        mean, change = returns_in_words(value, value - before)
        plain = f"return {mean}"
        measured = arrow = plain
        if len(self._returns) > 1:
            measured = f"{plain} ({'' if change.startswith('-') else '+'}{change})"
            arrow = f"{plain} {_direction(value, before)}" if with_signs else plain
        if with_signs and len(self._all_returns) > 1:
            yield _FULL, [f"{measured} {_sparkline(self._all_returns)}", *learning]
        yield _FULL, [measured, *learning]
        yield _SHORT, [measured, *learning]
        for bar_format in (_SHORT, _SHORTER):
            yield bar_format, [arrow, *learning]
        yield _SHORTER, [arrow, *learning[:1]]
        yield _SHORTER, [arrow]
        yield _SHORTEST, [arrow]
        yield _SHORTEST, []


def _direction(value: float, before: float) -> str:
    """Return an arrow that says whether returns rise, fall or stay the same."""
    change, steady = value - before, _STEADY * max(abs(value), abs(before))
    return "↑" if change > steady else "↓" if change < -steady else "→"


def _sparkline(values: Sequence[float]) -> str:
    """Return a line of at most eight blocks, each for the mean of a part of ``values``, scaled to their range."""
    n = min(len(values), len(_SPARKS))
    edges = [len(values) * k // n for k in range(n + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
    low, extent = min(means), (max(means) - min(means)) or 1.0
    return "".join(_SPARKS[round((mean - low) / extent * (len(_SPARKS) - 1))] for mean in means)


def _describe(metrics: dict[str, float]) -> str:
    learning = _describe_updates(metrics) if "replay/fill" in metrics else ""
    if "train/return_per_trial" not in metrics:
        return f"no complete trial yet{learning}"
    (mean,) = returns_in_words(metrics["train/return_per_trial"])
    quarters = returns_in_words(*(metrics[f"train/return_quarter_{quarter}"] for quarter in range(1, 5)))
    return f"return/trial {mean} | by quarter {' '.join(quarters)}{learning}"


def _describe_updates(metrics: dict[str, float]) -> str:
    """Describe the updates and the replay of a run that learns from a replay."""
    speed = metrics.get("wall_clock/updates_per_second")
    per_second = "" if speed is None else f" ({speed:.3g}/s)"
    return f" | {metrics['update/updates']:,.0f} updates{per_second} | replay {metrics['replay/fill']:.0%} full"
