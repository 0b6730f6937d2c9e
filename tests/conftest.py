"""Fixtures that all tests share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Parity:
    """Weights, inputs and outputs of the official implementation (float64)."""

    config: dict
    params: dict
    grads: dict
    x: torch.Tensor
    y: torch.Tensor
    grad_x: torch.Tensor
    loss_weight: torch.Tensor
    y_step: torch.Tensor | None


@pytest.fixture
def parity():
    """Load the official numbers of one model, e.g. ``parity("memo")``."""

    def load(name):
        with np.load(TESTS / "parity_data" / f"{name}.npz", allow_pickle=False) as file:
            data = {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}
        groups = {group: {} for group in ("config", "param", "grad")}
        for key, value in data.items():
            group, _, rest = key.partition("/")
            if rest:
                groups[group][rest] = value.item() if group == "config" else value
        return Parity(
            config=groups["config"],
            params=groups["param"],
            grads=groups["grad"],
            y_step=data.get("y_step"),
            **{key: data[key] for key in ("x", "y", "grad_x", "loss_weight")},
        )

    return load
