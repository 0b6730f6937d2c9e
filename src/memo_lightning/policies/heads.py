"""Policy and value heads on top of the sequence model, as TorchRL modules."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from gymnasium import spaces
from tensordict import TensorDictBase
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.modules import MaskedCategorical, ProbabilisticActor, TanhNormal, ValueOperator

from memo_lightning.policies.action import ACTION_MASK, Action
from memo_lightning.policies.multi_categorical import MultiCategorical

# Continuous policies start with the same wide distribution everywhere (Andrychowicz et al. 2021, arXiv 2006.05990).
_CONTINUOUS_GAIN = 0.01


class PolicyHeads(nn.Module):
    """The heads that an algorithm needs for acting; heads that are only used for learning belong to the algorithm.

    :meth:`forward` is :meth:`read`, which can be recorded as a CUDA graph, followed by :meth:`choose`, which is random.

    Args:
        d_model: width D of the sequence model.
        action: the action to choose.

    Attributes:
        actor: ``hidden [.., D]`` (and ``action_mask``) -> ``action`` and ``action_log_prob``.
        action: as given.
        is_continuous: whether actions are continuous.
        out_keys: keys that :meth:`forward` adds and a rollout holds.
        has_critic: whether the heads estimate state values. If not, rollouts hold the observations at which episodes
            were cut off instead of their values.
    """

    actor: ProbabilisticActor
    out_keys: ClassVar[tuple[str, ...]] = ("action", "action_log_prob")
    has_critic: ClassVar[bool] = False

    def __init__(self, d_model: int, action: Action) -> None:
        super().__init__()
        self.actor, self.action = build_actor(d_model, action), action
        self.is_continuous = isinstance(action.space, spaces.Box)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Add ``out_keys`` to a TensorDict that has ``hidden``."""
        return self.choose(self.read(tensordict))

    def read(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Add the parameters of the action distribution to a TensorDict that has ``hidden``."""
        return self.actor.module[0](tensordict)

    def choose(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Add actions to a TensorDict that has gone through :meth:`read`."""
        return self.actor.module[-1](tensordict)


class ActorCriticHeads(PolicyHeads):
    """A policy head and a value head; see :class:`PolicyHeads`.

    Attributes:
        critic: ``hidden [.., D]`` -> ``state_value [.., 1]``.
    """

    out_keys = ("action", "action_log_prob", "state_value")
    has_critic = True

    def __init__(self, d_model: int, action: Action) -> None:
        super().__init__(d_model, action)
        self.critic = ValueOperator(_linear(d_model, 1), in_keys=["hidden"])

    def read(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Add the parameters of the action distribution and the state value."""
        return self.critic(super().read(tensordict))


class ExploringHeads(PolicyHeads):
    """A policy head alone, which in training takes some actions uniformly at random from those allowed.

    It is for algorithms that can learn from any behaviour: it returns neither values nor probabilities.

    Attributes:
        random_fraction: scalar, the probability of a random action; a buffer, so that it travels with the weights to
            the process that acts.
    """

    out_keys = ("action",)
    random_fraction: Tensor

    def __init__(self, d_model: int, action: Action) -> None:
        super().__init__(d_model, action)
        self.register_buffer("random_fraction", torch.zeros(()))

    def choose(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Add actions, some of them random."""
        chosen = super().choose(tensordict)
        if self.training and self.random_fraction > 0 and exploration_type() is ExplorationType.RANDOM:
            action = chosen.get("action")
            at_random = torch.rand(chosen.batch_size, device=action.device) < self.random_fraction
            drawn = self._draw(chosen.batch_size, tensordict.get(ACTION_MASK, None)).to(action.device)
            shape = (*at_random.shape, *[1] * (action.ndim - at_random.ndim))
            chosen.set("action", torch.where(at_random.view(shape), drawn.to(action.dtype), action))
        return chosen

    def _draw(self, batch_size: torch.Size, mask: Tensor | None) -> Tensor:
        """Draw actions uniformly, and return them as stored."""
        if mask is None:
            return self.action.spec(batch_size).rand()
        parts = mask.float().split(self.action.n_values, -1)
        drawn = torch.stack([Categorical(probs=part).sample() for part in parts], -1)
        return drawn if self.action.shape else drawn.squeeze(-1)


def build_actor(d_model: int, action: Action) -> ProbabilisticActor:
    """Build the policy head: ``hidden [.., D]`` -> ``action`` and ``action_log_prob``.

    One discrete action is drawn from a categorical distribution, several from independent ones, and a bounded vector
    from a normal distribution squashed into the bounds by tanh. Actions that are not allowed have zero probability.
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
    """Return the names of the distribution's parameters, its class, and its other arguments."""
    if isinstance(action.space, spaces.Box):
        low, high = (
            torch.from_numpy(bound.reshape(-1).astype("float32")) for bound in (action.space.low, action.space.high)
        )
        return ["loc", "scale"], TanhNormal, {"low": low, "high": high}
    if not isinstance(action.space, spaces.Discrete):
        return ["logits"], MultiCategorical, {"n_values": action.n_values}
    if action.masked:
        return ["logits"], MaskedCategorical, {}
    # Not validated, as the sequence model has checked that its inputs are finite.
    return ["logits"], Categorical, {"validate_args": False}


def _linear(d_model: int, n_outputs: int, gain: float = 1.0) -> nn.Linear:
    linear = nn.Linear(d_model, n_outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear
