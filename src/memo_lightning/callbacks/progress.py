"""Progress in frames: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from memo_lightning.training.learner import PolicyLearner
from memo_lightning.wording import returns_in_words


class FramesProgressBar(ProgressBar):
    """Shows frames, frames/s, return per trial and return by quarter of the trial.

    Args:
        lines: where stderr is no terminal, how many lines to print over the whole run.
    """

    def __init__(self, lines: int = 20) -> None:
        super().__init__()
        self.lines = lines
        self._bar: tqdm | None = None
        self._enabled = True

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
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm(
                total=self._total,
                initial=pl_module.frames,
                unit=" frames",
                unit_scale=True,
                dynamic_ncols=True,
            )

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
        metrics = _describe({name: float(value) for name, value in trainer.callback_metrics.items()})
        if self._bar is not None:
            self._bar.set_postfix_str(metrics, refresh=False)
            self._bar.update(frames - self._bar.n)
        elif self._enabled and (frames >= self._next_line or frames >= self._total):
            self._next_line = frames + self._total / self.lines
            speed = (frames - self._first_frame) / (time.perf_counter() - self._start)
            print(
                f"{frames:>12,} of {self._total:,} frames | {speed:,.0f} frames/s | {metrics}",
                file=sys.stderr,
            )

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _describe(metrics: dict[str, float]) -> str:
    if "train/return_per_trial" not in metrics:
        return "no complete trial yet"
    (mean,) = returns_in_words(metrics["train/return_per_trial"])
    quarters = returns_in_words(*(metrics[f"train/return_quarter_{quarter}"] for quarter in range(1, 5)))
    return f"return/trial {mean} | by quarter {' '.join(quarters)}"
