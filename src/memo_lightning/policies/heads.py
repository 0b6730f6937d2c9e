"""Policy and value heads on the output of the sequence model, as TorchRL modules."""

from __future__ import annotations

from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical as CategoricalDistribution
from torchrl.data import Categorical, TensorSpec
from torchrl.modules import ProbabilisticActor, ValueOperator

from memo_lightning.errors import UserError


def build_actor(d_model: int, action_spec: TensorSpec) -> ProbabilisticActor:
    """Return the policy head: ``hidden [.., D]`` -> ``action`` and ``action_log_prob``.

    Raises:
        UserError: if actions of this kind are not supported.
    """
    if not isinstance(action_spec, Categorical):
        raise UserError(f"action_spec={type(action_spec).__name__}: must be Categorical (one discrete action)")
    linear = nn.Linear(d_model, action_spec.n)
    nn.init.orthogonal_(linear.weight)
    nn.init.zeros_(linear.bias)
    return ProbabilisticActor(
        TensorDictModule(linear, in_keys=["hidden"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=CategoricalDistribution,
        distribution_kwargs={"validate_args": False},  # inputs were checked to be finite by the sequence model
        return_log_prob=True,
    )


def build_critic(d_model: int) -> ValueOperator:
    """Return the value head: ``hidden [.., D]`` -> ``state_value [.., 1]``."""
    linear = nn.Linear(d_model, 1)
    nn.init.orthogonal_(linear.weight)
    nn.init.zeros_(linear.bias)
    return ValueOperator(linear, in_keys=["hidden"])
