"""Policy and value heads on the output of the sequence model, as TorchRL modules."""

from __future__ import annotations

from typing import Any

from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution
from torchrl.data import Binary, Bounded, Categorical, MultiCategorical, TensorSpec
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator

from memo_lightning.errors import UserError
from memo_lightning.policies.multi_categorical import MultiCategorical as MultiCategoricalDistribution

# Continuous policies begin with the same wide distribution everywhere (Andrychowicz et al. 2021, arXiv 2006.05990).
_CONTINUOUS_GAIN = 0.01


def build_actor(d_model: int, action_spec: TensorSpec) -> ProbabilisticActor:
    """Return the policy head: ``hidden [.., D]`` -> ``action`` and ``action_log_prob``.

    One discrete action is drawn from a categorical distribution, several from independent ones, a bounded vector
    from a normal distribution squashed into the bounds by tanh.

    Raises:
        UserError: if actions of this kind are not supported.
    """
    head: nn.Module
    names, distribution, settings = _distribution(action_spec)
    if names == ["logits"]:
        head = _linear(d_model, _n_logits(action_spec))
    else:
        head = nn.Sequential(_linear(d_model, 2 * action_spec.shape[-1], _CONTINUOUS_GAIN), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(head, in_keys=["hidden"], out_keys=names),
        in_keys=names,
        distribution_class=distribution,
        distribution_kwargs=settings,
        return_log_prob=True,
    )


def build_critic(d_model: int) -> ValueOperator:
    """Return the value head: ``hidden [.., D]`` -> ``state_value [.., 1]``."""
    return ValueOperator(_linear(d_model, 1), in_keys=["hidden"])


def _distribution(spec: TensorSpec) -> tuple[list[str], type[Distribution], dict[str, Any]]:
    """Return the names of its parameters, the class, and its other arguments."""
    if isinstance(spec, MultiCategorical):
        return ["logits"], MultiCategoricalDistribution, {"n_values": _n_values(spec)}
    if isinstance(spec, Categorical) and not isinstance(spec, Binary):
        # Not validated: inputs were checked to be finite by the sequence model.
        return ["logits"], CategoricalDistribution, {"validate_args": False}
    if isinstance(spec, Bounded) and spec.dtype.is_floating_point:
        first_row = (0,) * (len(spec.shape) - 1)
        return ["loc", "scale"], TanhNormal, {"low": spec.space.low[first_row], "high": spec.space.high[first_row]}
    raise UserError(
        f"action_spec={type(spec).__name__}: must be Categorical (one discrete action), MultiCategorical (several) or "
        f"Bounded (a vector with bounds)"
    )


def _n_values(spec: MultiCategorical) -> list[int]:
    return spec.nvec.reshape(-1, spec.nvec.shape[-1])[0].tolist()


def _n_logits(spec: Categorical) -> int:
    return sum(_n_values(spec)) if isinstance(spec, MultiCategorical) else int(spec.n)


def _linear(d_model: int, n_outputs: int, gain: float = 1.0) -> nn.Linear:
    linear = nn.Linear(d_model, n_outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear
