"""A check, before timing, that a memory's steps agree with whole sequences."""

from __future__ import annotations

import copy

import torch

from memo_lightning.benchmarks.case import Case
from memo_lightning.models import SequenceModel

_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.3}
_WEIGHT_SCALE = 4  # fresh weights are so small that the memory would hardly affect the outputs


class DisagreementError(Exception):
    """A disagreement between single steps and the whole sequence."""


@torch.no_grad()
def check_steps(case: Case, model: SequenceModel) -> float:
    """Compare ``step`` and ``prefill`` with ``forward``, over two boundaries that sequences reach at different steps.

    Returns:
        The largest difference of any output, relative to the largest output if that exceeds 1.

    Raises:
        DisagreementError: if the difference is larger than rounding explains.
    """
    model = copy.deepcopy(model).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(_WEIGHT_SCALE)
    length = 2 * case.segment_length + 8
    x = case.inputs(2, length)
    is_init = torch.zeros(2, length, dtype=torch.bool, device=x.device)
    is_init[1, 5] = True
    with case.autocast():
        whole = model(x, is_init)
        prefilled, _ = model.prefill(x, is_init)
        state, steps = model.init_state(2), []
        for t in range(length):
            y, state = model.step(x[:, t], state, is_init[:, t])
            steps.append(y)
    differences = [float((outputs - whole).abs().max()) for outputs in (prefilled, torch.stack(steps, dim=1))]
    difference = max(differences) / max(1.0, float(whole.abs().max()))
    if not difference < _TOLERANCE[case.settings["precision"]]:
        raise DisagreementError(f"{case.memory}: step differs from forward by {difference:.2g}")
    return difference
