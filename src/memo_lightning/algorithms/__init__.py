"""The learning algorithms."""

from memo_lightning.algorithms.actor_critic import ActorCritic
from memo_lightning.algorithms.base import Algorithm, Metrics, TrainingRun
from memo_lightning.algorithms.ppo import PPO

__all__ = ["PPO", "ActorCritic", "Algorithm", "Metrics", "TrainingRun"]
