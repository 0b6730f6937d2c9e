"""An ensemble of critics for several discounts at once, with normalised outputs that can be rescaled.

Notation used for tensor shapes, here and in the loss:
    - E: critics of the ensemble, G: discounts
    - N: steps, D: width of the sequence model, A: width of an action as a vector
"""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import silu

from memo_lightning.policies.action import Action
from memo_lightning.policies.previous_step import encode_action
from memo_lightning.policies.spaces import bounds


class EnsembleLinear(nn.Module):
    """E linear layers in parallel, from ``[N, n_inputs]`` or ``[E, N, n_inputs]`` to ``[E, N, n_outputs]``."""

    def __init__(self, n_critics: int, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_critics, n_inputs, n_outputs))
        self.bias = nn.Parameter(torch.zeros(n_critics, 1, n_outputs))
        for weight in self.weight.data:
            nn.init.orthogonal_(weight)

    def forward(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Apply the layers; if ``frozen``, without gradient for their weights."""
        weight, bias = (self.weight.detach(), self.bias.detach()) if frozen else (self.weight, self.bias)
        if x.ndim == 3:
            return torch.baddbmm(bias, x, weight)
        n_critics, n_inputs, n_outputs = weight.shape
        joined = weight.transpose(0, 1).reshape(n_inputs, -1)  # one product instead of E with the same input
        return torch.addmm(bias.view(-1), x, joined).view(-1, n_critics, n_outputs).transpose(0, 1)


class Critics(nn.Module):
    """E critics that value an action under each of G discounts, in units of PopArt's running statistics.

    For discrete actions, the value is linear in the action vector (one-hot, one component after another), so the value
    of a vector of probabilities is the exact mean over the distribution. The values of several components add up. For
    continuous actions, the action, scaled to [-1, 1], is an input.

    Args:
        d_model: width D of the sequence model.
        action: the action of the environment.
        n_critics: number of critics E.
        n_discounts: number of discounts G.
        width: width of the hidden layer.
    """

    low: Tensor
    high: Tensor

    def __init__(self, d_model: int, action: Action, *, n_critics: int, n_discounts: int, width: int) -> None:
        super().__init__()
        self.action, self.n_discounts = action, n_discounts
        self.is_continuous = isinstance(action.space, spaces.Box)
        n_inputs = d_model
        if isinstance(action.space, spaces.Box):
            n_inputs += action.shape[0]
            low, high = bounds(action.space)
            self.register_buffer("low", low.float(), persistent=False)
            self.register_buffer("high", high.float(), persistent=False)
        self.hidden = EnsembleLinear(n_critics, n_inputs, width)
        self.output = EnsembleLinear(n_critics, width, n_discounts * (1 + sum(action.n_values)))
        self.output.weight.data.mul_(0.1)  # so that all actions have similar values at first

    def as_vector(self, taken: Tensor) -> Tensor:
        """Return stored actions, ``[N]`` or ``[N, k]``, as vectors ``[N, A]``."""
        vector = encode_action(self.action, taken).float()
        if not self.is_continuous:
            return vector
        return 2 * (vector - self.low) / (self.high - self.low) - 1

    def forward(self, hidden: Tensor, action: Tensor) -> Tensor:
        """Return the values ``[E, N, G]`` of actions ``[N, A]`` in states ``[N, D]``."""
        if self.is_continuous:
            return self._layers(torch.cat([hidden, action], -1)).squeeze(-1)
        return _mean_over_actions(self._layers(hidden), action)

    def of_taken_and_chosen(self, hidden: Tensor, taken: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values of two actions ``[N, A]`` in the same states ``[N, D]``.

        Returns:
            The values ``[E, N, G]`` of the action ``taken``, with gradient for states and critics, and of the actor's
            ``chosen`` action, with gradient for the choice only.
        """
        if self.is_continuous:
            both = torch.cat([hidden.detach(), chosen], -1)
            return self(hidden, taken), self._layers(both, frozen=True).squeeze(-1)
        by_action = self._layers(hidden)
        return _mean_over_actions(by_action, taken), _mean_over_actions(by_action.detach(), chosen)

    @torch.no_grad()
    def rescale(self, old_mean: Tensor, old_deviation: Tensor, mean: Tensor, deviation: Tensor) -> None:
        """Change the units of the outputs, ``[G]`` each, without changing the values they stand for (PopArt)."""
        ratio = (old_deviation / deviation).view(-1, 1)  # (G, 1), over all outputs of a discount
        weight, bias = (p.data.unflatten(-1, (self.n_discounts, -1)) for p in (self.output.weight, self.output.bias))
        weight *= ratio
        bias *= ratio
        bias[..., 0] += (old_mean - mean) / deviation

    def _layers(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Return ``[E, N, G, 1 + A]``: the value of the state, and what every discrete action adds to it."""
        hidden = silu(self.hidden(x, frozen=frozen))
        return self.output(hidden, frozen=frozen).unflatten(-1, (self.n_discounts, -1))


def _mean_over_actions(by_action: Tensor, probability: Tensor) -> Tensor:
    """Return the values ``[E, N, G]`` of actions ``[N, A]``, from the values by action ``[E, N, G, 1 + A]``."""
    return by_action[..., 0] + (by_action[..., 1:] * probability.unsqueeze(1)).sum(-1)
