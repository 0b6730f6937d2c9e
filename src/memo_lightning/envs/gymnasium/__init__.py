"""Gymnasium environments, in this process or in workers, with the contract of trials."""

from memo_lightning.envs.gymnasium.env import GymnasiumEnv
from memo_lightning.envs.gymnasium.wrappers import BoundActions, SelectComponents

__all__ = ["BoundActions", "GymnasiumEnv", "SelectComponents"]
