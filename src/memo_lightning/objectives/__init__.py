"""Advantages and losses."""

from memo_lightning.objectives.ppo import PPO, DrawLength, Experience

__all__ = ["PPO", "DrawLength", "Experience"]
