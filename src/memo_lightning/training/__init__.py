"""The LightningModule, and the code that builds and runs a Trainer."""

from memo_lightning.training.learner import PolicyLearner

__all__ = ["PolicyLearner"]
