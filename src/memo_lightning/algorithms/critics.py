"""An ensemble of critics for several discounts at once, whose outputs are normalised and can be rescaled.

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
    """E linear layers side by side: ``[N, n_inputs]``, or ``[E, N, n_inputs]``, to ``[E, N, n_outputs]``."""

    def __init__(self, n_critics: int, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_critics, n_inputs, n_outputs))
        self.bias = nn.Parameter(torch.zeros(n_critics, 1, n_outputs))
        for weight in self.weight.data:
            nn.init.orthogonal_(weight)

    def forward(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Apply them; where they are ``frozen``, without a gradient for their own weights."""
        weight, bias = (self.weight.detach(), self.bias.detach()) if frozen else (self.weight, self.bias)
        if x.ndim == 3:
            return torch.baddbmm(bias, x, weight)
        n_critics, n_inputs, n_outputs = weight.shape
        joined = weight.transpose(0, 1).reshape(n_inputs, -1)  # one product instead of E of the same input
        return torch.addmm(bias.view(-1), x, joined).view(-1, n_critics, n_outputs).transpose(0, 1)


class Critics(nn.Module):
    """What an action is worth, E times for each of G discounts, in units of the running statistics of PopArt.

    Discrete actions: the value is linear in the action as a vector (one-hot, one component after another), so that of a
    vector of probabilities is the exact mean over the distribution. Several components add up. Continuous ones: the
    action, scaled to [-1, 1], is an input.

    Args:
        d_model: D.
        action: what is chosen.
        n_critics: E.
        n_discounts: G.
        width: of the hidden layer.
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
        self.output.weight.data.mul_(0.1)  # all actions are alike at first

    def as_vector(self, taken: Tensor) -> Tensor:
        """Return actions as stored, ``[N]`` or ``[N, k]``, as vectors ``[N, A]``."""
        vector = encode_action(self.action, taken).float()
        if not self.is_continuous:
            return vector
        return 2 * (vector - self.low) / (self.high - self.low) - 1

    def forward(self, hidden: Tensor, action: Tensor) -> Tensor:
        """Return values ``[E, N, G]`` of actions ``[N, A]`` in states ``[N, D]``."""
        if self.is_continuous:
            return self._layers(torch.cat([hidden, action], -1)).squeeze(-1)
        return _mean_over_actions(self._layers(hidden), action)

    def of_taken_and_chosen(self, hidden: Tensor, taken: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values of two actions ``[N, A]`` in the same states ``[N, D]``.

        Returns:
            ``[E, N, G]`` of what was ``taken``, with gradient for states and critics; and of what the actor has
            ``chosen``, with gradient for the choice only.
        """
        if self.is_continuous:
            both = torch.cat([hidden.detach(), chosen], -1)
            return self(hidden, taken), self._layers(both, frozen=True).squeeze(-1)
        by_action = self._layers(hidden)
        return _mean_over_actions(by_action, taken), _mean_over_actions(by_action.detach(), chosen)

    @torch.no_grad()
    def rescale(self, old_mean: Tensor, old_deviation: Tensor, mean: Tensor, deviation: Tensor) -> None:
        """Change the units of the outputs of every discount, ``[G]`` each, and not what they say (PopArt)."""
        ratio = (old_deviation / deviation).view(-1, 1)  # (G, 1), over all outputs of a discount
        weight, bias = (p.data.unflatten(-1, (self.n_discounts, -1)) for p in (self.output.weight, self.output.bias))
        weight *= ratio
        bias *= ratio
        bias[..., 0] += (old_mean - mean) / deviation

    def _layers(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Return ``[E, N, G, 1 + A]``, the value of the state and what every discrete action adds to it."""
        hidden = silu(self.hidden(x, frozen=frozen))
        return self.output(hidden, frozen=frozen).unflatten(-1, (self.n_discounts, -1))


def _mean_over_actions(by_action: Tensor, probability: Tensor) -> Tensor:
    """Return ``[E, N, G]``, the values of actions ``[N, A]``, of values by action ``[E, N, G, 1 + A]``."""
    return by_action[..., 0] + (by_action[..., 1:] * probability.unsqueeze(1)).sum(-1)
