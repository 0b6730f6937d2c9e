"""The FLOPs of a step while acting."""

from __future__ import annotations

import torch

from memo_lightning.models import SequenceModel
from memo_lightning.models.flops import count_flops


@torch.no_grad()
def flops_per_step(model: SequenceModel, n_steps: int) -> float:
    """Return the FLOPs of one step of one environment at the end of a trial of ``n_steps`` steps.

    This is the mean over the trial's last complete segment, so that writing its summary is included. For a model
    without segments, it is the last step.
    """
    parameter = next(model.parameters())
    length = min(model.segment_length or 1, n_steps)
    x = torch.zeros(1, n_steps // length * length, model.d_model, device=parameter.device, dtype=parameter.dtype)
    was_training, trained = model.training, [weight for weight in model.parameters() if weight.requires_grad]
    model.eval().requires_grad_(False)  # torch's counter follows gradients through modules
    if x.shape[1] > length:
        _, state = model.prefill(x[:, :-length])
    else:
        state = model.init_state(1)
    with count_flops() as count:
        for t in range(length):
            _, state = model.step(x[:, t], state)
    model.train(was_training)
    for weight in trained:
        weight.requires_grad_(True)
    return count.flops / length
