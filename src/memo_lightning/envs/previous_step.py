"""RL^2 inputs as an environment transform."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.data import TensorSpec, Unbounded
from torchrl.envs.transforms import Transform

from memo_lightning.policies.action import Action
from memo_lightning.policies.previous_step import PREVIOUS_STEP, encode_previous_step, previous_step_size


class PreviousStep(Transform):
    """Transform that adds ``previous_step [N, A + 2]``, the last action, reward and end of episode.

    See :func:`~memo_lightning.policies.previous_step.encode_previous_step`. All are zero at the start of a trial. The
    environment must report ``episode_end``.

    Args:
        action: the environment's action.
        with_reward: whether to include the reward; without it the width is A + 1.
    """

    def __init__(self, action: Action, *, with_reward: bool = True) -> None:
        self._action, self._with_reward = action, with_reward
        super().__init__(in_keys=["action", "reward", "episode_end"], out_keys=[PREVIOUS_STEP])

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        value = encode_previous_step(
            self._action,
            tensordict.get("action"),
            next_tensordict.get("reward"),
            next_tensordict.get("episode_end"),
            with_reward=self._with_reward,
        )
        return next_tensordict.set(PREVIOUS_STEP, value)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        value = self._spec().zero()
        reset = tensordict.get("_reset", None)
        if reset is not None and PREVIOUS_STEP in tensordict.keys():
            value = torch.where(reset, value, tensordict.get(PREVIOUS_STEP))
        return tensordict_reset.set(PREVIOUS_STEP, value)

    def _spec(self) -> TensorSpec:
        size = previous_step_size(self._action, with_reward=self._with_reward)
        return Unbounded((*self.parent.batch_size, size), device=self.parent.device)

    def transform_observation_spec(self, observation_spec: Any) -> TensorSpec:
        """Add the spec of ``previous_step``."""
        observation_spec[PREVIOUS_STEP] = self._spec()
        return observation_spec
