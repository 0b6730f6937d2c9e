"""Ending a run that is not worth continuing, as decided by its caller."""

from __future__ import annotations

from collections.abc import Callable

import lightning

from memo_lightning.callbacks.after_rollout import AfterRollout
from memo_lightning.training.learner import PolicyLearner

Report = Callable[[int, float], bool]


class Pruning(AfterRollout):
    """Callback that reports a metric at multiples of a number of frames, and ends the run when told to.

    Counting frames makes the reports of runs comparable, whatever the size of their rollouts. The run ends as if its
    frames had been used up, so a pruned run leaves everything that a finished one leaves. With several ranks, the first
    one reports and all follow its decision.

    Args:
        metric: name of the logged metric.
        every_n_frames: number of frames between reports.
        report: function of the frames (a multiple of ``every_n_frames``) and the metric's value that returns whether
            to end the run; called on the first rank only.

    Attributes:
        pruned: whether the run was pruned.
    """

    def __init__(self, metric: str, every_n_frames: int, report: Report) -> None:
        self.metric, self.every_n_frames, self.report = metric, every_n_frames, report
        self.pruned = False
        self._reported = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Continue the reports of a resumed run."""
        assert isinstance(pl_module, PolicyLearner)
        self._reported = pl_module.frames // self.every_n_frames

    def after_rollout(self, trainer: lightning.Trainer, learner: PolicyLearner) -> None:
        """Report if the frames have passed a further multiple."""
        multiple = learner.frames // self.every_n_frames
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
