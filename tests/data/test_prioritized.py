"""Priorities of trials in a replay."""

import pytest
import torch

from memo_lightning.data.prioritized import PrioritizedTrials


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_priorities_that_are_not_finite_become_those_of_a_new_trial(spoilt):
    torch.manual_seed(0)
    trials = PrioritizedTrials(3, 1.0, 0.0)
    trials.extend(torch.arange(3))
    trials.update_priority(torch.arange(3), torch.tensor([1.0, 2.0, spoilt]))
    index, _ = trials.sample(range(3), 50_000)
    drawn = torch.bincount(index, minlength=3) / len(index)
    torch.testing.assert_close(drawn, torch.tensor([0.2, 0.4, 0.4]), atol=0.01, rtol=0)
