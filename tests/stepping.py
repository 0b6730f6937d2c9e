"""Stepping a memory through whole sequences."""

import torch


def step_through(model, x, is_init=None):
    """Return the outputs ``[B, T, D]`` of ``model`` stepping through ``x [B, T, D]``, and the memory after it."""
    state = model.init_state(x.shape[0])
    outputs = []
    for t in range(x.shape[1]):
        y, state = model.step(x[:, t], state, None if is_init is None else is_init[:, t])
        outputs.append(y)
    return torch.stack(outputs, 1), state
