"""The linear map that all blocks are made of."""

from torch import nn

_INIT_STD = 0.02  # as GPT-2 does (Radford et al. 2019); torch's default learns the quick task later


def projection(in_features: int, out_features: int) -> nn.Linear:
    """Return a linear map without bias, its weights drawn from a normal distribution of width 0.02."""
    linear = nn.Linear(in_features, out_features, bias=False)
    nn.init.normal_(linear.weight, std=_INIT_STD)
    return linear
