"""The size of a memory while acting."""

from __future__ import annotations

import torch

from memo_lightning.models import SequenceModel


@torch.no_grad()
def peak_memory_bytes(model: SequenceModel, n_steps: int) -> int:
    """Return the peak size in bytes of one environment's memory during a trial of ``n_steps`` steps."""
    parameter = next(model.parameters())
    x_t = torch.zeros(1, model.d_model, device=parameter.device, dtype=parameter.dtype)
    was_training, state, peak = model.training, model.eval().init_state(1), 0
    for _ in range(n_steps):
        _, state = model.step(x_t, state)
        peak = max(peak, model.state_nbytes(state))
    model.train(was_training)
    return peak
