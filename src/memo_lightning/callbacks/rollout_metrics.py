"""Metrics of rollouts: return per trial and by quarter, episode success if it is reported, and speed."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import lightning
import torch
from tensordict import TensorDictBase

from memo_lightning.data.collector import STEPS
from memo_lightning.data.trial_record import READ, TrialRecord, successes
from memo_lightning.errors import require
from memo_lightning.training.learner import PolicyLearner

N_QUARTERS = 4
_READ = ("is_init", *(("next", *([key] if isinstance(key, str) else key)) for key in READ))


class RolloutMetrics(lightning.Callback):
    """Callback that logs metrics of every rollout of all ranks, and keeps the trials of the first and latest rollouts.

    Args:
        window: number of latest rollouts whose trials are kept and averaged for the run's final metrics.

    Attributes:
        train_seconds: seconds that the run has spent on rollouts and updates.
        collect_seconds: seconds of these that were spent waiting for rollouts.
        history: frames, seconds of training and return per trial, after every rollout with a complete trial.
    """

    def __init__(self, window: int = 5) -> None:
        require(window >= 1, "callbacks.metrics.window", window, "at least 1")
        self.first: TrialRecord | None = None
        self._chunks: list[TensorDictBase] = []  # of the incomplete rollout
        self.history: list[dict[str, float]] = []
        self.train_seconds = self.collect_seconds = 0.0
        self._latest: deque[TrialRecord] = deque(maxlen=window)
        self._clock = self._ready = self._waited = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what the report of a resumed run needs, as plain values and tensors."""
        return {
            "first": self.first.as_tensors() if self.first else None,
            "latest": [record.as_tensors() for record in self._latest],
            "history": self.history,
            "train_seconds": self.train_seconds,
            "collect_seconds": self.collect_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.first = TrialRecord.from_tensors(state_dict["first"]) if state_dict["first"] else None
        self._latest.extend(TrialRecord.from_tensors(tensors) for tensors in state_dict["latest"])
        self.history = state_dict["history"]
        self.train_seconds, self.collect_seconds = state_dict["train_seconds"], state_dict["collect_seconds"]

    @property
    def latest(self) -> TrialRecord | None:
        """The trials of the last ``window`` rollouts with complete trials; None if there was none."""
        return TrialRecord.concatenate(list(self._latest)) if self._latest else None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._clock = self._ready = time.perf_counter()
        self._waited = 0.0

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: TensorDictBase, batch_idx: int
    ) -> None:
        """Add the time since the last update, in which the batch was collected."""
        self._waited += time.perf_counter() - self._ready

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: TensorDictBase,
        batch_idx: int,
    ) -> None:
        """Log the rollout that was just learned from, if it is complete."""
        assert isinstance(pl_module, PolicyLearner)
        steps = batch[STEPS]
        self._chunks.append(steps.select(*_READ, strict=False))
        self._ready = time.perf_counter()
        if pl_module.in_rollout:
            return
        rollout = torch.cat(self._chunks, dim=1)
        self._chunks.clear()
        seconds, waited = self._ready - self._clock, self._waited
        self._clock, self._waited = self._ready, 0.0
        self.train_seconds += seconds
        self.collect_seconds += waited
        metrics = {
            "wall_clock/frames_per_second": rollout.numel() * trainer.world_size / seconds,
            "wall_clock/collecting": waited / seconds,
        }
        if "policy_version" in steps.keys():  # from workers that do not wait for new weights
            metrics["train/staleness"] = batch_idx + 1 - float(steps.get("policy_version").float().mean())
        metrics.update(self._describe(_of_all_ranks(pl_module, rollout), pl_module))
        pl_module.log_dict(metrics, batch_size=len(steps))

    def _describe(self, rollout: TensorDictBase, learner: PolicyLearner) -> dict[str, float]:
        """Return the metrics of a complete rollout ``[B, T]``, and keep its trials."""
        metrics = {}
        record = TrialRecord.of(rollout, longest=learner.config["env"].get("trial_length", 1))
        episodes = rollout.get(("next", "episode_end"))
        if episodes.any():
            metrics["train/episode_return"] = float(rollout.get(("next", "episode_return"))[episodes].mean())
            if (success := successes(rollout)) is not None:
                metrics["train/episode_success"] = float(success[episodes].float().mean())
        if len(record.returns):
            self._latest.append(record)
            self.first = self.first or record
            metrics["train/return_per_trial"] = float(record.returns.mean())
            for quarter, value in enumerate(record.by_part(N_QUARTERS).mean(0), start=1):
                metrics[f"train/return_quarter_{quarter}"] = float(value)
            point = {"frames": learner.frames, "seconds": self.train_seconds}
            self.history.append({**point, "return_per_trial": metrics["train/return_per_trial"]})
        return metrics


def _of_all_ranks(pl_module: PolicyLearner, rollout: TensorDictBase) -> TensorDictBase:
    """Return the rollout ``[world_size * B, T]`` of all ranks, the same on each."""
    world_size = pl_module.trainer.world_size
    if world_size == 1:
        return rollout
    n_envs, n_steps = rollout.batch_size
    gathered = rollout.to(pl_module.device).apply(
        lambda values: torch.cat(list(pl_module.all_gather(values))), batch_size=[world_size * n_envs, n_steps]
    )
    assert gathered is not None
    return gathered
