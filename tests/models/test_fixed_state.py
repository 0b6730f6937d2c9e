"""A state of fixed shape gives the same results as stepping, and can be traced."""

import pytest
import torch
from test_contract import MODELS, STACK, D, make

from memo_lightning.models import FullContextTransformer, MemoTransformer
from memo_lightning.models.fixed_state import FixedStep

# Memories and settings that change the steps; all others differ only in training.
NAMES = [name for name in MODELS if name not in ("autocompressor", "no_iea", "sliding_window", "memo, checkpointed")]
BUDGETED = 13  # one segment and four summaries


@pytest.fixture(autouse=True)
def _fresh_compiler():
    """Make every test compile afresh, including torch's recurrent cells."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        yield


def bounded(name):
    model = make(name)
    n_steps = 10_000
    if model.memory_budget is None and model.budget_of_trial(n_steps) is not None:
        model.memory_budget = 21 if "retrieval" in name else BUDGETED
    return model


def restarts(n_rows, n_steps):
    """Return trial starts at random steps; the last sequence is one long trial."""
    is_init = torch.rand(n_rows, n_steps) < 0.05
    is_init[-1] = False
    is_init[:, 0] = True
    return is_init


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_step_of_fixed_shape_equals_step(name):
    model = bounded(name)
    x, is_init = torch.randn(4, 150, D), restarts(4, 150)
    state, fixed = model.init_state(4), model.init_fixed_state(4)
    kept = {key: (value.shape, value.dtype) for key, value in fixed.items()}
    step = torch.compile(FixedStep(model), fullgraph=True, backend="eager")
    for t in range(x.shape[1]):
        expected, state = model.step(x[:, t], state, is_init[:, t])
        y, fixed = step(x[:, t], fixed, is_init[:, t])
        torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)
        assert {key: (value.shape, value.dtype) for key, value in fixed.items()} == kept


@pytest.mark.parametrize("name", NAMES)
def test_the_tensors_of_a_fixed_state_have_a_meaning(name):
    model = bounded(name)
    assert {key.partition(".")[0] for key in model.init_fixed_state(2)} == set(model.fixed_state_meanings)


@pytest.mark.parametrize("name", ["memo", "direct_kv", "full_context", "retrieval"])
def test_a_memory_that_grows_has_no_fixed_state(name):
    model = make(name)
    with pytest.raises(ValueError, match=rf"memory_budget=None: must be set .* {type(model).__name__} grows"):
        model.init_fixed_state(2)


@pytest.mark.parametrize("name", ["memo", "direct_kv", "full_context", "retrieval"])
def test_the_budget_of_a_trial_drops_nothing_of_it_and_one_less_does(name):
    model, x = make(name), torch.randn(2, 46, D)
    if name == "retrieval":
        model.top_k = 3
    whole, budget = model(x), model.budget_of_trial(46)
    model.memory_budget = budget
    torch.testing.assert_close(model(x), whole, atol=1e-5, rtol=1e-5)
    model.memory_budget = budget - 1
    if name != "retrieval":  # it reads the best few, wherever they are
        assert (model(x) - whole)[:, -1].abs().max() > 1e-3


def test_a_budget_is_the_same_however_far_a_stream_has_gone():
    near, far = (FullContextTransformer(**STACK, memory_budget=6, position_offset=n).eval() for n in (0, 20_000_000))
    far.load_state_dict(near.state_dict())
    near_state, far_state, none = near.init_fixed_state(2), far.init_fixed_state(2), torch.zeros(2, dtype=torch.bool)
    for x_t in torch.randn(40, 2, D):
        y, near_state = near.fixed_step(x_t, near_state, none)
        shifted, far_state = far.fixed_step(x_t, far_state, none)
        torch.testing.assert_close(shifted, y, atol=1e-5, rtol=1e-5)


def test_a_stream_of_summaries_is_the_same_however_far_it_has_gone():
    torch.manual_seed(0)
    model = MemoTransformer(**STACK, segment_length=5, summary_length=2, memory_budget=11).eval()
    step = torch.compile(FixedStep(model), fullgraph=True, backend="eager")
    state, none = model.init_fixed_state(2), torch.zeros(2, dtype=torch.bool)
    far = {**state, "segments": state["segments"] + 3_000_000}  # none of the three kept summaries is real
    for t, x_t in enumerate(torch.randn(400, 2, D)):
        y, state = step(x_t, state, none)
        shifted, far = step(x_t, far, none)
        if t > 300:  # long after the initial contents, and all derived from them, are gone
            torch.testing.assert_close(shifted, y, atol=1e-4, rtol=1e-4)
