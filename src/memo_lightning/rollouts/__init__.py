"""Collecting experience: a TorchRL collector behind a LightningDataModule."""

from memo_lightning.rollouts.datamodule import RolloutDataModule, Rollouts

__all__ = ["RolloutDataModule", "Rollouts"]
