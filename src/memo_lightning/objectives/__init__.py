"""Advantages and losses."""

from memo_lightning.objectives.ppo import PPO, Experience

__all__ = ["PPO", "Experience"]
