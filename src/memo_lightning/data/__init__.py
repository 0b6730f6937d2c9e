"""Collecting experience: a TorchRL collector behind a LightningDataModule."""

from memo_lightning.data.rollouts import RolloutDataModule, Rollouts
from memo_lightning.data.ray import RayDataModule
from memo_lightning.data.workers import MultiAsyncDataModule, MultiSyncDataModule

__all__ = ["MultiAsyncDataModule", "MultiSyncDataModule", "RayDataModule", "RolloutDataModule", "Rollouts"]
