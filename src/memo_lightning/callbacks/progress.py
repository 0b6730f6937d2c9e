"""Progress in frames: a bar on a terminal and in a notebook, a line now and then elsewhere."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections import deque
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from memo_lightning.training.learner import PolicyLearner
from memo_lightning.wording import returns_in_words

# 80 columns with returns up to six digits; tqdm gives what is left to the bar.
_BAR_FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {remaining} left {rate_fmt}{postfix}"
_TREND = 0.1  # of the run, over which the trend is measured


def bar_class() -> type[tqdm] | None:
    """Return the progress bar for where this runs: terminal or notebook; None where only whole lines can be read."""
    if sys.stderr.isatty():
        return tqdm
    # tqdm's own choice between them warns where ipywidgets is missing.
    if _in_notebook() and importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as notebook_bar

        return notebook_bar
    return None


def _room_for_interrupt(stream: Any) -> tuple[int, int]:
    """Return columns and lines of a terminal, less those in which it writes ``^C``: that would begin a new line."""
    size = os.get_terminal_size(stream.fileno())
    return size.columns - len("^C"), size.lines


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")  # whoever has not imported it is no notebook
    shell = ipython.get_ipython() if ipython else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class FramesProgressBar(ProgressBar):
    """Shows frames, the time left, frames/s, return per trial and its trend.

    The trend is the change over the last tenth of the run. Lines also show the return by quarter of the trial, and of a
    run with a replay the updates so far, how many there are in a second, and how full the replay is.

    Args:
        lines: where there is no bar, how many lines to print over the whole run.
    """

    def __init__(self, lines: int = 20) -> None:
        super().__init__()
        self.lines = lines
        self._bar: tqdm | None = None
        self._enabled = True
        self._returns: deque[tuple[int, float]] = deque()  # frames and return per trial, of the last tenth of the run

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
        bar = bar_class() if self._enabled else None
        if bar:
            self._bar = bar(
                total=self._total,
                initial=pl_module.frames,
                unit=" frames",
                unit_scale=True,
                dynamic_ncols=True,
                bar_format=_BAR_FORMAT,
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
                self._bar.set_postfix_str(self._with_trend(frames, metrics["train/return_per_trial"]), refresh=False)
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
        """Close the bar where it stands: a bar that is closed later is drawn again, below what was said meanwhile."""
        self._close()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _with_trend(self, frames: int, value: float) -> str:
        """Return the return per trial, and its change since a tenth of the run ago, once there is something to tell."""
        self._returns.append((frames, value))
        while frames - self._returns[0][0] > _TREND * self._total:
            self._returns.popleft()
        mean, change = returns_in_words(value, value - self._returns[0][1])
        sign = "" if change.startswith("-") else "+"
        return f"return {mean}" + (f" ({sign}{change})" if len(self._returns) > 1 else "")


def _describe(metrics: dict[str, float]) -> str:
    learning = _describe_updates(metrics) if "replay/fill" in metrics else ""
    if "train/return_per_trial" not in metrics:
        return f"no complete trial yet{learning}"
    (mean,) = returns_in_words(metrics["train/return_per_trial"])
    quarters = returns_in_words(*(metrics[f"train/return_quarter_{quarter}"] for quarter in range(1, 5)))
    return f"return/trial {mean} | by quarter {' '.join(quarters)}{learning}"


def _describe_updates(metrics: dict[str, float]) -> str:
    """Return what there is to say about a run that learns from a replay."""
    speed = metrics.get("wall_clock/updates_per_second")
    per_second = "" if speed is None else f" ({speed:.3g}/s)"
    return f" | {metrics['update/updates']:,.0f} updates{per_second} | replay {metrics['replay/fill']:.0%} full"
