"""Batched TorchRL environments with trials, and transforms that any environment can use."""

from memo_lightning.envs.dark_key_to_door import DarkKeyToDoor
from memo_lightning.envs.darkroom import Darkroom
from memo_lightning.envs.many_rooms import ManyRooms
from memo_lightning.envs.previous_step import PreviousStep
from memo_lightning.envs.t_maze import TMaze
from memo_lightning.envs.trial_env import TrialEnv

__all__ = ["DarkKeyToDoor", "Darkroom", "ManyRooms", "PreviousStep", "TMaze", "TrialEnv"]
