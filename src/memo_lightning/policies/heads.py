"""Policy and value heads on the output of the sequence model, as TorchRL modules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from tensordict import TensorDictBase
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torch.distributions import Categorical, Distribution
from torchrl.modules import MaskedCategorical, ProbabilisticActor, TanhNormal, ValueOperator

from memo_lightning.policies.action import ACTION_MASK, Action
from memo_lightning.policies.multi_categorical import MultiCategorical

# Continuous policies begin with the same wide distribution everywhere (Andrychowicz et al. 2021, arXiv 2006.05990).
_CONTINUOUS_GAIN = 0.01


class PolicyHeads(nn.Module, ABC):
    """The heads that an algorithm needs while acting; those it only learns with are its own.

    Args:
        d_model: width D of the sequence model.
        action: what is to be chosen.

    Attributes:
        actor: ``hidden [.., D]`` (and ``action_mask``) -> ``action`` and ``action_log_prob``.
        is_continuous: whether actions are vectors of numbers.
        out_keys: what :meth:`forward` adds, and a rollout holds.
    """

    actor: ProbabilisticActor
    out_keys: ClassVar[tuple[str, ...]] = ("action", "action_log_prob")

    def __init__(self, d_model: int, action: Action) -> None:
        super().__init__()
        self.actor = build_actor(d_model, action)
        self.is_continuous = isinstance(action.space, spaces.Box)

    @abstractmethod
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Add ``out_keys`` to a TensorDict with ``hidden``."""


class ActorCriticHeads(PolicyHeads):
    """A policy head and a value head; see :class:`PolicyHeads`.

    Attributes:
        critic: ``hidden [.., D]`` -> ``state_value [.., 1]``.
    """

    out_keys = ("action", "action_log_prob", "state_value")

    def __init__(self, d_model: int, action: Action) -> None:
        super().__init__(d_model, action)
        self.critic = ValueOperator(_linear(d_model, 1), in_keys=["hidden"])

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Choose actions, and say what they are worth."""
        return self.critic(self.actor(tensordict))


def build_actor(d_model: int, action: Action) -> ProbabilisticActor:
    """Return the policy head: ``hidden [.., D]`` -> ``action`` and ``action_log_prob``.

    One discrete action is drawn from a categorical distribution, several from independent ones, a bounded vector from
    a normal distribution squashed into the bounds by tanh. Masked actions have no probability.
    """
    names, distribution, settings = _distribution(action)
    head: nn.Module
    if names == ["logits"]:
        head = _linear(d_model, sum(action.n_values))
    else:
        head = nn.Sequential(_linear(d_model, 2 * action.shape[0], _CONTINUOUS_GAIN), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(head, in_keys=["hidden"], out_keys=names),
        in_keys={**{name: name for name in names}, **({"mask": ACTION_MASK} if action.masked else {})},
        distribution_class=distribution,
        distribution_kwargs=settings,
        return_log_prob=True,
    )


def _distribution(action: Action) -> tuple[list[str], type[Distribution], dict[str, Any]]:
    """Return the names of its parameters, the class, and its other arguments."""
    if isinstance(action.space, spaces.Box):
        low, high = (
            torch.from_numpy(bound.reshape(-1).astype("float32")) for bound in (action.space.low, action.space.high)
        )
        return ["loc", "scale"], TanhNormal, {"low": low, "high": high}
    if not isinstance(action.space, spaces.Discrete):
        return ["logits"], MultiCategorical, {"n_values": action.n_values}
    if action.masked:
        return ["logits"], MaskedCategorical, {}
    # Not validated: inputs were checked to be finite by the sequence model.
    return ["logits"], Categorical, {"validate_args": False}


def _linear(d_model: int, n_outputs: int, gain: float = 1.0) -> nn.Linear:
    linear = nn.Linear(d_model, n_outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear
