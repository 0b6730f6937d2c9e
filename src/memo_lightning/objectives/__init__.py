"""Advantages and losses."""

from memo_lightning.objectives.ppo import PPO

__all__ = ["PPO"]
