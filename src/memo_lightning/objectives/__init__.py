"""Advantages and losses."""

from memo_lightning.objectives.ppo import PPO, DrawPass, Experience

__all__ = ["PPO", "DrawPass", "Experience"]
