"""Advantages and losses."""

from memo_lightning.algorithms.ppo import PPO, DrawPass, Experience

__all__ = ["PPO", "DrawPass", "Experience"]
