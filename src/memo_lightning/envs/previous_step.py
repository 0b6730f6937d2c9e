"""RL^2 inputs: what the agent did last, what it got for it, and whether an episode ended (arXiv 1611.02779)."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn.functional import one_hot
from torchrl.data import Categorical, MultiCategorical, TensorSpec, Unbounded
from torchrl.envs.transforms import Transform


class PreviousStep(Transform):
    """Add ``previous_step [N, A + 2]``: the last action, reward and end of episode, to every observation.

    Without the reward it is ``[N, A + 1]``.

    A discrete action is one-hot, A its number of values, several are one-hot one after another; any other is
    taken as it is, flattened, A its size.
    At the start of a trial all are zero. The environment must report ``episode_end``.

    Args:
        with_reward: whether the reward is among them.
    """

    def __init__(self, *, with_reward: bool = True) -> None:
        self._with_reward = with_reward
        super().__init__(in_keys=["action", "reward", "episode_end"], out_keys=["previous_step"])

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        batch_size = next_tensordict.batch_size
        parts = [
            self._encode(tensordict.get("action")).reshape(*batch_size, -1),
            *([next_tensordict.get("reward")] if self._with_reward else []),
            next_tensordict.get("episode_end").float(),
        ]
        return next_tensordict.set("previous_step", torch.cat(parts, -1))

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        value = self._spec().zero()
        rows = tensordict.get("_reset", None)
        if rows is not None and "previous_step" in tensordict.keys():
            value = torch.where(rows, value, tensordict.get("previous_step"))
        return tensordict_reset.set("previous_step", value)

    def _encode(self, action: Tensor) -> Tensor:
        spec = self.parent.full_action_spec["action"]
        if isinstance(spec, MultiCategorical):
            sizes = spec.nvec.reshape(-1, spec.nvec.shape[-1])[0].tolist()
            return torch.cat([one_hot(a, n) for a, n in zip(action.unbind(-1), sizes, strict=True)], -1).float()
        return one_hot(action, spec.n).float() if isinstance(spec, Categorical) else action.float()

    def _spec(self) -> TensorSpec:
        batch_size = self.parent.batch_size
        action = self._encode(self.parent.full_action_spec["action"].zero()).reshape(*batch_size, -1)
        return Unbounded((*batch_size, action.shape[-1] + 1 + self._with_reward), device=self.parent.device)

    def transform_observation_spec(self, observation_spec: Any) -> TensorSpec:
        """Add the entry's spec."""
        observation_spec["previous_step"] = self._spec()
        return observation_spec
