"""The learning rate over a run."""

import pytest
import torch

from memo_lightning.algorithms.schedule import learning_rate_factor


def test_constant_without_warm_up_is_one_throughout():
    assert {learning_rate_factor(frames, 100, 0, "constant") for frames in (0, 50, 100, 200)} == {1.0}


def test_warm_up_rises_linearly_and_stays():
    factors = [learning_rate_factor(frames, 100, 20, "constant") for frames in (0, 5, 10, 20, 60)]
    assert factors == [0.0, 0.25, 0.5, 1.0, 1.0]


def test_cosine_equals_torch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=80)
    for frames in range(20, 100):
        assert learning_rate_factor(frames, 100, 20, "cosine") == pytest.approx(schedule.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        schedule.step()


def test_cosine_ends_at_zero_and_stays_there():
    assert learning_rate_factor(100, 100, 0, "cosine") == pytest.approx(0)
    assert learning_rate_factor(150, 100, 0, "cosine") == pytest.approx(0)
