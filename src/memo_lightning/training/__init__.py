"""The LightningModule, and building and running a Trainer."""

from memo_lightning.training.learner import PolicyLearner

__all__ = ["PolicyLearner"]
