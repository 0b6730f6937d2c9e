"""Full context: equal to the official model with Sink-KV; windows, episodes and a cache."""

import pytest
import torch

from memo_lightning.models import FullContextTransformer
from memo_lightning.models.attention import causal_attention
from stepping import step_through


@pytest.fixture
def official(parity):
    return parity("full_context_sink_kv")


def small_model(**settings):
    torch.manual_seed(0)
    return FullContextTransformer(d_model=16, n_layers=2, n_heads=2, d_ff=32, **settings).eval()


def test_outputs_and_gradients_equal_the_official_model(official, check_official_gradients):
    # The official norms compute in float32, and a sink's gradient sums over all steps: errors up to 2e-5.
    check_official_gradients(FullContextTransformer, official, tolerance=3e-5, sink_kv=True)


def test_steps_equal_the_official_model(official, official_model):
    y, _ = step_through(official_model(FullContextTransformer, official, sink_kv=True), official.x)
    torch.testing.assert_close(y, official.y, atol=1e-5, rtol=1e-5)


def test_the_first_position_matters_with_a_sink_only(official, official_model):
    model = official_model(FullContextTransformer, official, sink_kv=True)
    model.position_offset = 0
    assert (model(official.x) - official.y).abs().max() > 1e-3
    plain, shifted = small_model(), small_model(position_offset=4097)
    x = torch.randn(2, 20, 16)
    torch.testing.assert_close(plain(x), shifted(x), atol=1e-5, rtol=1e-5)


class NaiveContext:
    """Attention under one explicit mask over all tokens."""

    def __init__(self, seen):
        self.seen = seen

    def attend(self, layer, queries, keys, values):
        return causal_attention(queries, keys, values, self.seen)


@pytest.mark.parametrize("budget", [None, 1, 7, 600])
def test_budget_and_resets_equal_one_explicit_mask(budget):
    model = small_model(memory_budget=budget)
    x = torch.randn(3, 1100, 16)  # several blocks of queries
    is_init = torch.rand(3, 1100) < torch.tensor([[0.0], [0.01], [0.3]])
    steps = torch.arange(1100)
    trial = is_init.long().cumsum(1)
    age = steps[:, None] - steps
    seen = (trial[:, :, None] == trial[:, None]) & (age >= 0)
    if budget is not None:
        seen &= age < budget
    starts = torch.where(is_init, steps, 0).cummax(1).values
    expected = model.transformer(x, (steps - starts)[:, None], NaiveContext(seen[:, None]))
    torch.testing.assert_close(model(x, is_init), expected, atol=1e-5, rtol=1e-5)


def test_the_scope_of_the_memory_can_be_the_episode():
    assert small_model(memory_scope="episode").memory_scope == "episode"
    with pytest.raises(ValueError, match=r"memory_scope='day': must be one of trial, episode"):
        small_model(memory_scope="day")


def test_streaming_forgets_exactly_what_is_too_old():
    model = small_model(memory_budget=5)
    model.transformer.blocks = model.transformer.blocks[:1]  # more layers reach further, as each attends to 5 steps
    x = torch.randn(1, 20, 16, requires_grad=True)
    model(x)[0, 12].sum().backward()
    reached = x.grad[0].abs().sum(-1) > 0
    assert reached.nonzero().squeeze(1).tolist() == [8, 9, 10, 11, 12]


def test_streaming_holds_no_more_than_its_budget():
    model = small_model(memory_budget=300)
    x = torch.randn(2, 700, 16)
    state, sizes = model.init_state(2), []
    for t in range(700):
        _, state = model.step(x[:, t], state)
        sizes.append(model.state_nbytes(state))
    assert sizes[-1] == sizes[299] == 2 * 300 * (2 * 2 * 16 * 4) + 2 * 2 * 8
    assert sizes[0] < sizes[-1]


def test_positions_in_the_millions_lose_nothing():
    model = small_model(memory_budget=8)
    x = torch.randn(2, 30, 16)
    state = model.init_state(2)
    state["steps"] += 8_000_000
    for t in range(30):
        y, state = model.step(x[:, t], state)
    torch.testing.assert_close(y, model(x)[:, -1], atol=1e-5, rtol=1e-5)


def test_a_budget_set_later_applies_to_new_states():
    model = small_model()
    old = model.init_state(2)
    model.memory_budget = 4
    x = torch.randn(2, 12, 16)
    torch.testing.assert_close(model(x), step_through(model, x)[0], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"state was made with memory_budget=None: .* memory_budget=4"):
        model.step(x[:, 0], old)
    with pytest.raises(ValueError, match="memory_budget=0: must be at least 1"):
        model.memory_budget = 0
    assert model.memory_budget == 4
