"""User-defined memories: a correct one, and others with one mistake each."""

import torch
from tensordict import TensorDict
from torch import nn

from memo_lightning.models import SequenceModel


class Right(SequenceModel):
    """A decaying sum of its inputs, behind a gate that is initially closed."""

    state_names = ("total",)

    def __init__(self, d_model):
        super().__init__(d_model)
        self.write = nn.Linear(d_model, d_model)
        self.gate = nn.Parameter(torch.zeros(d_model))

    def forward(self, x, is_init=None, segment_length=None):
        total, outputs = x.new_zeros(len(x), self.d_model), []
        for t in range(x.shape[1]):
            y_t, total = self._advance(x[:, t], total, None if is_init is None else is_init[:, t])
            outputs.append(y_t)
        return torch.stack(outputs, 1)

    def init_state(self, batch_size):
        return TensorDict({"total": torch.zeros(batch_size, self.d_model)}, [batch_size])

    @torch.no_grad()
    def step(self, x_t, state, is_init=None):
        y_t, total = self._advance(x_t, state["total"], is_init)
        state["total"].copy_(total)
        return y_t, state

    def _advance(self, x_t, total, is_init):
        if is_init is not None:
            total = total.masked_fill(is_init[:, None], 0.0)
        total = 0.9 * total + self.write(x_t)
        return x_t + self.gate * total, total


class NoTensorDict(Right):
    def init_state(self, batch_size):
        return {"total": torch.zeros(batch_size, self.d_model)}


class UndeclaredEntry(Right):
    def init_state(self, batch_size):
        return super().init_state(batch_size).set("count", torch.zeros(batch_size))


class OnlyOutputs(Right):
    def step(self, x_t, state, is_init=None):
        return super().step(x_t, state, is_init)[0]


class WrongShape(Right):
    def forward(self, x, is_init=None, segment_length=None):
        return super().forward(x, is_init)[:, -1]


class Raises(Right):
    def forward(self, x, is_init=None, segment_length=None):
        return x @ x


class StepDecaysOtherwise(Right):
    """Has a mistake that shows only once the gate is open."""

    def step(self, x_t, state, is_init=None):
        y_t, state = super().step(x_t, state, is_init)
        state["total"].mul_(0.99)
        return y_t, state


class StepIgnoresTrials(Right):
    def step(self, x_t, state, is_init=None):
        return super().step(x_t, state)


class MixesTrials(Right):
    def _advance(self, x_t, total, is_init):
        return super()._advance(x_t, total, None)


class SeesTheFuture(Right):
    def forward(self, x, is_init=None, segment_length=None):
        return super().forward(x - x.mean(1, keepdim=True), is_init)


class SeesItsNeighbours(Right):
    def _advance(self, x_t, total, is_init):
        y_t, total = super()._advance(x_t, total, is_init)
        return y_t - y_t.mean(0), total


class RemembersOutsideOfItsState(Right):
    state_names = ("steps",)

    def init_state(self, batch_size):
        return TensorDict({"steps": torch.zeros(batch_size)}, [batch_size])

    @torch.no_grad()
    def step(self, x_t, state, is_init=None):
        if not state["steps"].any() or len(self.total) != len(x_t):
            self.total = torch.zeros(len(x_t), self.d_model)
        y_t, self.total = self._advance(x_t, self.total, is_init)
        state["steps"] += 1
        return y_t, state


class Detached(Right):
    def _advance(self, x_t, total, is_init):
        y_t, total = super()._advance(x_t, total.detach(), is_init)
        return y_t.detach() + x_t, total


class CoarseInHalfPrecision(Right):
    def _advance(self, x_t, total, is_init):
        y_t, total = super()._advance(x_t, total, is_init)
        if torch.is_autocast_enabled("cpu"):
            y_t = y_t.round()
        return y_t, total


class LosesWeights(Right):
    def __init__(self, d_model):
        super().__init__(d_model)
        self.offset = torch.randn(d_model)  # not registered

    def _advance(self, x_t, total, is_init):
        return super()._advance(x_t + self.offset, total, is_init)


class PrefillForgets(Right):
    def prefill(self, x, is_init=None):
        y, _ = super().prefill(x, is_init)
        return y, self.init_state(len(x))


class BranchesOnNumbers(Right):
    """Correct, but cannot be exported."""

    def step(self, x_t, state, is_init=None):
        if state["total"].sum() > 1e9:
            state["total"].zero_()
        return super().step(x_t, state, is_init)
