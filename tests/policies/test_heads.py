"""Policy heads: samples and log-probabilities compared with torch's distributions."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch.distributions import (
    AffineTransform,
    Categorical,
    Independent,
    Normal,
    TanhTransform,
    TransformedDistribution,
)
from torchrl.data import Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from memo_lightning.errors import UserError
from memo_lightning.policies.action import Action, action_of_spec
from memo_lightning.policies.heads import build_actor


def hidden(n=6, d=8):
    generator = torch.Generator().manual_seed(1)
    return TensorDict({"hidden": torch.randn(n, d, generator=generator)}, (n,))


def test_several_discrete_actions_are_independent():
    torch.manual_seed(0)
    actor = build_actor(8, Action(spaces.MultiDiscrete([2, 4, 3])))
    td = actor(hidden())
    parts = [Categorical(logits=part) for part in td["logits"].split([2, 4, 3], -1)]
    assert td["action"].shape == (6, 3)
    log_prob = sum(part.log_prob(action) for part, action in zip(parts, td["action"].unbind(-1), strict=True))
    torch.testing.assert_close(td["action_log_prob"], log_prob)
    torch.testing.assert_close(actor.get_dist(td).entropy(), sum(part.entropy() for part in parts))
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        mode = actor(hidden())["action"]
    assert torch.equal(mode, torch.stack([part.logits.argmax(-1) for part in parts], -1))
    samples = actor.get_dist(td).sample((4000,))
    frequency = (samples == torch.arange(4).view(4, 1, 1, 1)).float().mean(1)[..., 1].T
    torch.testing.assert_close(frequency, parts[1].probs, atol=0.04, rtol=0)


def test_continuous_actions_are_a_squashed_normal_within_the_bounds():
    torch.manual_seed(0)
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0])
    actor = build_actor(8, Action(spaces.Box(low.numpy(), high.numpy(), dtype=np.float32)))
    td = actor(hidden())
    assert ((td["action"] > low) & (td["action"] < high)).all()
    reference = TransformedDistribution(
        Independent(Normal(td["loc"], td["scale"]), 1),
        [TanhTransform(), AffineTransform((low + high) / 2, (high - low) / 2, event_dim=1)],
    )
    torch.testing.assert_close(td["action_log_prob"], reference.log_prob(td["action"]), atol=1e-3, rtol=1e-3)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        middle = actor(hidden())["action"]
    torch.testing.assert_close(middle, (low + high) / 2 + (high - low) / 2 * td["loc"].tanh())
    assert (td["scale"] > 0.3).all(), "it begins wide"
    assert math.isfinite(actor.get_dist(td).log_prob(high.expand(6, 2)).sum().item()), "also on the bounds"


def test_other_actions_are_refused():
    with pytest.raises(UserError, match="UnboundedContinuous: must be Categorical"):
        action_of_spec(Unbounded((6, 2)), 1)
    with pytest.raises(UserError, match="action space Text: must be Discrete"):
        Action(spaces.Text(3))
