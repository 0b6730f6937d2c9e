"""Data for training: experience collected with TorchRL behind a LightningDataModule, replay, and trial records."""

from memo_lightning.data.replay import TrialReplay
from memo_lightning.data.rollouts import RolloutDataModule, Rollouts

from memo_lightning.data.ray import RayDataModule  # isort: skip - it builds on the others
from memo_lightning.data.workers import MultiAsyncDataModule, MultiSyncDataModule

__all__ = [
    "MultiAsyncDataModule",
    "MultiSyncDataModule",
    "RayDataModule",
    "RolloutDataModule",
    "Rollouts",
    "TrialReplay",
]
