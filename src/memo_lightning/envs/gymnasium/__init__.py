"""Any Gymnasium environment, in this process or in workers, with the contract of trials."""

from memo_lightning.envs.gymnasium.env import GymnasiumEnv
from memo_lightning.envs.gymnasium.wrappers import SelectComponents

__all__ = ["GymnasiumEnv", "SelectComponents"]
