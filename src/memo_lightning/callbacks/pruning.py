"""Ending a run that is not worth going on with, as whoever runs it decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning

from memo_lightning.training.learner import PolicyLearner

Report = Callable[[int, float], bool]


class Pruning(lightning.Callback):
    """Reports a metric at multiples of a number of frames, and ends the run when told to.

    Frames make reports of runs comparable whatever the size of their rollouts. The run ends as if its frames had
    been used up, so a pruned run leaves everything that a finished one leaves. On several ranks, the first one
    reports and all follow its decision.

    Args:
        metric: name of the logged metric.
        every_n_frames: frames between reports.
        report: takes frames (a multiple of ``every_n_frames``) and the metric's value, and returns whether to end
            the run; called on the first rank only.

    Attributes:
        pruned: whether the run was ended.
    """

    def __init__(self, metric: str, every_n_frames: int, report: Report) -> None:
        self.metric, self.every_n_frames, self.report = metric, every_n_frames, report
        self.pruned = False
        self._reported = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Go on reporting where a run goes on."""
        assert isinstance(pl_module, PolicyLearner)
        self._reported = pl_module.frames // self.every_n_frames

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Report if it is time."""
        assert isinstance(pl_module, PolicyLearner)
        if pl_module.in_rollout:
            return
        multiple = pl_module.frames // self.every_n_frames
        if multiple == self._reported or self.metric not in trainer.callback_metrics:
            return
        self._reported = multiple
        prune = False
        if trainer.is_global_zero:
            value = float(trainer.callback_metrics[self.metric])
            prune = self.report(multiple * self.every_n_frames, value)
        self.pruned = trainer.strategy.broadcast(prune)
        if self.pruned:
            trainer.should_stop = True
