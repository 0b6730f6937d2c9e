"""LSTM and GRU: models with a fixed-size state, built on torch's own cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from memo_lightning.models.base import SequenceModel
from memo_lightning.models.transformer import check_sizes
from memo_lightning.models.trials import Trials


class _Recurrent(SequenceModel):
    """The base of LSTM and GRU: a torch RNN with resets per sequence and one state tensor per name.

    Sequences are cut into trials and packed, so resets cost neither padding nor a Python loop over steps.

    Args:
        rnn: the torch module, batch first, with width D.
    """

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__(rnn.hidden_size)
        self.rnn = rnn

    def check_state(self, state: TensorDict) -> None:
        """Raise ``ValueError`` unless ``state`` has the model's layers and width."""
        held, expected = tuple(state["hidden"].shape[1:]), (self.rnn.num_layers, self.d_model)
        if held != expected:
            raise ValueError(f"state belongs to another model: it holds (layers, width) {held}, must be {expected}")

    def forward(self, x: Tensor, is_init: Tensor | None = None, segment_length: int | None = None) -> Tensor:
        """Process whole sequences; see :meth:`SequenceModel.forward`."""
        return self._read_rows(x, is_init)[0]

    @torch.no_grad()
    def prefill(self, x: Tensor, is_init: Tensor | None = None) -> tuple[Tensor, TensorDict]:
        """Process whole sequences; see :meth:`SequenceModel.prefill`."""
        y, parts = self._read_rows(x, is_init)
        named = zip(self.state_names, parts, strict=True)
        return y, TensorDict({name: part.transpose(0, 1).contiguous() for name, part in named}, [x.shape[0]])

    def _read_rows(self, x: Tensor, is_init: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the outputs ``[B, T, D]``, and the parts ``[layers, B, D]`` of the state after them."""
        self.check_sequences(x, is_init)
        trials = Trials((x.shape[0], x.shape[1]), is_init)
        if trials.is_plain:
            y, after = self._run(x)
            return y, self._parts(after)
        order, batch_sizes = trials.packing()
        packed, after = self._run(PackedSequence(x.flatten(0, 1)[order], batch_sizes))
        y = packed.data[order.argsort()].unflatten(0, trials.shape)
        return y, tuple(part[:, trials.last()] for part in self._parts(after))

    def _run(self, x: Any, before: Any = None) -> Any:
        """Run torch's cells, on the CPU always in the weights' own precision.

        Under autocast, torch does this itself for a GRU but fails for an LSTM on CPUs without bfloat16 arithmetic.
        """
        weight = self.rnn.weight_hh_l0
        if weight.device.type != "cpu":
            self.rnn.training = torch.is_grad_enabled()  # without it cuDNN has no gradients; there is no dropout
            return self.rnn(x, before)
        with torch.autocast("cpu", enabled=False):
            return self.rnn(x.to(weight.dtype), before)

    def _parts(self, after: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return torch's final state, which is a tuple or a single tensor, as a tuple."""
        return after if isinstance(after, tuple) else (after,)

    def init_state(self, batch_size: int) -> TensorDict:
        """Return zeros ``[B, layers, D]`` for every part of the state."""
        shape = (batch_size, self.rnn.num_layers, self.d_model)
        weight = next(self.rnn.parameters())
        return TensorDict({name: weight.new_zeros(shape) for name in self.state_names}, [batch_size])

    @torch.no_grad()
    def step(self, x_t: Tensor, state: TensorDict, is_init: Tensor | None = None) -> tuple[Tensor, TensorDict]:
        """Process one step of every sequence; see :meth:`SequenceModel.step`."""
        self.check_step(x_t, state, is_init)
        parts = [state[name] for name in self.state_names]
        if is_init is not None:
            for part in parts:
                part.masked_fill_(is_init.to(part.device, non_blocking=True)[:, None, None], 0)
        before = [part.transpose(0, 1).contiguous() for part in parts]  # torch expects (layers, B, D)
        y, after = self._run(x_t.unsqueeze(1), tuple(before) if len(before) > 1 else before[0])
        for part, new in zip(parts, self._parts(after), strict=True):
            part.copy_(new.transpose(0, 1))
        return y.squeeze(1), state


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), ``n_layers`` of them stacked.

    Args:
        d_model: width D.
        n_layers: number of layers.

    Raises:
        ValueError: if a size is not positive.
    """

    state_names = ("hidden", "cell")
    fixed_state_meanings: ClassVar[Mapping[str, str]] = {
        "hidden": "hidden state of every layer, [layers, width]",
        "cell": "cell state of every layer, [layers, width]",
    }

    def __init__(self, d_model: int, n_layers: int) -> None:
        check_sizes(d_model=d_model, n_layers=n_layers)
        super().__init__(nn.LSTM(d_model, d_model, n_layers, batch_first=True))


class GRU(_Recurrent):
    """Gated recurrent units (Cho et al. 2014, arXiv 1406.1078), ``n_layers`` of them stacked.

    Args:
        d_model: width D.
        n_layers: number of layers.

    Raises:
        ValueError: if a size is not positive.
    """

    state_names = ("hidden",)
    fixed_state_meanings: ClassVar[Mapping[str, str]] = {"hidden": "hidden state of every layer, [layers, width]"}

    def __init__(self, d_model: int, n_layers: int) -> None:
        check_sizes(d_model=d_model, n_layers=n_layers)
        super().__init__(nn.GRU(d_model, d_model, n_layers, batch_first=True))
