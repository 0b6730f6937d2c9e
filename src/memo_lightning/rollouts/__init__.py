"""Collecting experience: a TorchRL collector behind a LightningDataModule."""

from memo_lightning.rollouts.datamodule import RolloutDataModule, Rollouts
from memo_lightning.rollouts.ray import RayDataModule
from memo_lightning.rollouts.workers import MultiAsyncDataModule, MultiSyncDataModule

__all__ = ["MultiAsyncDataModule", "MultiSyncDataModule", "RayDataModule", "RolloutDataModule", "Rollouts"]
