"""A model without memory, as the reference of every comparison."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from memo_lightning.models.base import SequenceModel
from memo_lightning.models.feed_forward import FeedForward
from memo_lightning.models.rms_norm import RMSNorm
from memo_lightning.models.transformer import check_sizes


class Memoryless(SequenceModel):
    """The transformer's blocks without attention, so that every step sees only itself.

    Args:
        d_model: width D.
        n_layers: number of blocks.
        d_ff: inner width of the gated MLP.
        norm_eps: epsilon of all RMSNorms.

    Raises:
        ValueError: if a size is not positive.
    """

    def __init__(self, d_model: int, n_layers: int, d_ff: int, norm_eps: float = 1e-6) -> None:
        check_sizes(d_model=d_model, n_layers=n_layers, d_ff=d_ff)
        super().__init__(d_model)
        self.blocks = nn.ModuleList(
            nn.Sequential(RMSNorm(d_model, eps=norm_eps), FeedForward(d_model, d_ff)) for _ in range(n_layers)
        )
        self.norm = RMSNorm(d_model, eps=norm_eps)

    def forward(self, x: Tensor, is_init: Tensor | None = None, segment_length: int | None = None) -> Tensor:
        """Process every step on its own; see :meth:`SequenceModel.forward`."""
        self.check_sequences(x, is_init)
        return self._run(x)

    @torch.no_grad()
    def prefill(self, x: Tensor, is_init: Tensor | None = None) -> tuple[Tensor, TensorDict]:
        """Process every step on its own; see :meth:`SequenceModel.prefill`."""
        return self(x, is_init), self.init_state(x.shape[0])

    def init_state(self, batch_size: int) -> TensorDict:
        """Return a state without entries."""
        return TensorDict({}, [batch_size])

    @torch.no_grad()
    def step(self, x_t: Tensor, state: TensorDict, is_init: Tensor | None = None) -> tuple[Tensor, TensorDict]:
        """Process one step of every sequence; see :meth:`SequenceModel.step`."""
        self.check_step(x_t, state, is_init)
        return self._run(x_t), state

    def _run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x)
