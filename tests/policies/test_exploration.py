"""Actions drawn with a separate random generator follow the policy's distribution."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from torch.distributions import Categorical
from torchrl.modules import MaskedCategorical, TanhNormal

from memo_lightning.policies.exploration import CorrelatedNoise, draw
from memo_lightning.policies.multi_categorical import MultiCategorical

N = 20_000


def generator():
    return torch.Generator().manual_seed(0)


def fits(actions, probabilities):
    """Return whether counts of actions match these probabilities, by a chi-squared test."""
    counts = np.bincount(actions.numpy(), minlength=len(probabilities))
    allowed = np.array(probabilities) > 0
    assert not counts[~allowed].any(), "what has no probability is never drawn"
    return chisquare(counts[allowed], N * np.array(probabilities)[allowed]).pvalue > 0.001


@pytest.mark.parametrize("masked", [False, True])
def test_discrete_actions_come_as_often_as_their_probabilities_say(masked):
    logits, mask = torch.tensor([0.1, 2.0, -1.0, 0.7], dtype=torch.float64), torch.tensor([True, False, True, True])
    rows = logits.expand(N, 4)
    distribution = MaskedCategorical(logits=rows, mask=mask.expand(N, 4)) if masked else Categorical(logits=rows)
    weights = logits.exp() * (mask if masked else 1)
    actions = draw(distribution, generator())
    assert actions.dtype == torch.int64
    assert fits(actions, (weights / weights.sum()).tolist())
    assert not fits(actions, [0.25, 0.0 if masked else 0.25, 0.25, 0.5 if masked else 0.25])


def test_components_of_several_discrete_actions_are_independent():
    logits = torch.tensor([0.0, 1.0, 0.5, 0.0, -1.0]).expand(N, 5)
    actions = draw(MultiCategorical(logits, [2, 3]), generator())
    assert actions.shape == (N, 2)
    first, second = logits[0, :2].softmax(0), logits[0, 2:].softmax(0)
    assert fits(actions[:, 0] * 3 + actions[:, 1], (first[:, None] * second).flatten().tolist())


def test_vectors_are_normal_before_they_are_squashed_into_their_bounds():
    mean, scale = torch.full((N, 1), 0.3), torch.full((N, 1), 0.5)
    distribution = TanhNormal(mean, scale, low=torch.tensor([-2.0]), high=torch.tensor([1.0]))
    actions = draw(distribution, generator()).double()
    assert -2 <= actions.min() < actions.max() <= 1
    base = distribution.base_dist
    noise = (torch.atanh((actions + 2) / 1.5 - 1) - base.mean) / base.stddev
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 0.001


def test_correlated_noise_lasts_from_step_to_step_and_begins_anew_with_a_trial():
    torch.manual_seed(0)
    noise, distribution = CorrelatedNoise(0.9), TanhNormal(torch.zeros(N, 1), torch.ones(N, 1))
    starts = torch.arange(N) % 2 == 0
    first, second = (torch.atanh(noise.sample(distribution, flags)) for flags in (torch.ones_like(starts), starts))
    correlation = [float(torch.corrcoef(torch.cat([first[of], second[of]], 1).T)[0, 1]) for of in (~starts, starts)]
    assert correlation[0] == pytest.approx(0.9, abs=0.01)
    assert correlation[1] == pytest.approx(0.0, abs=0.04)
    assert float(second.std()) == pytest.approx(1.0, abs=0.03)
