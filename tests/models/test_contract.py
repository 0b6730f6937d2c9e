"""The contract of every sequence model, whatever its memory.

Every option of ``conf/model/`` and ``conf/baseline/`` is tested automatically, with its own settings and small sizes.
Options with more settings are tested with several of them.
"""

import copy
from functools import partial

import pytest
import torch
import yaml

from memo_lightning.callbacks import Baseline
from memo_lightning.config import config_dir
from memo_lightning.models import (
    DirectKVTransformer,
    FullContextTransformer,
    MemoTransformer,
    RecurrentMemoryTransformer,
    RetrievalMemory,
)
from stepping import step_through

D = 16
STACK = {"d_model": D, "n_layers": 2, "n_heads": 2, "d_ff": 32}
SEGMENTS = {"segment_length": 5, "summary_length": 2}
SIZES = {**STACK, **SEGMENTS}


def options():
    """Return the settings of every memory that ships, by the name of its option."""
    found = {}
    for path in sorted((config_dir() / "model").glob("*.yaml")):
        settings = yaml.safe_load(path.read_text())
        own = {name: value for name, value in settings.items() if name not in SIZES}
        found[path.stem] = {"target": own.pop("_target_"), **own}
    for path in sorted((config_dir() / "baseline").glob("*.yaml")):
        if path.stem not in ("none", "custom"):
            settings = yaml.safe_load(path.read_text())
            assert settings.pop("_target_") == "memo_lightning.callbacks.Baseline"
            found[path.stem] = settings
    return found


OPTIONS = options()


def build_option(name):
    return Baseline(shared=SIZES, **OPTIONS[name]).model


MODELS = {
    **{name: partial(build_option, name) for name in OPTIONS},
    "memo, sink": lambda: MemoTransformer(**STACK, **SEGMENTS, sink_kv=True),
    "memo, streaming": lambda: MemoTransformer(**STACK, **SEGMENTS, memory_budget=10),
    "memo, streaming one summary": lambda: MemoTransformer(**STACK, **SEGMENTS, memory_budget=8, sink_kv=True),
    "memo, limited age": lambda: MemoTransformer(**STACK, **SEGMENTS, memory_budget=15, max_summary_age=2),
    "memo, checkpointed": lambda: MemoTransformer(**STACK, **SEGMENTS, checkpoint_segments=True),
    "memo, steps as segments": lambda: MemoTransformer(**STACK, segment_length=1, summary_length=1),
    "direct_kv, streaming": lambda: DirectKVTransformer(**STACK, **SEGMENTS, memory_budget=10, sink_kv=True),
    "rmt, long summary": lambda: RecurrentMemoryTransformer(**STACK, segment_length=5, summary_length=7, sink_kv=True),
    "full_context, sink": lambda: FullContextTransformer(**STACK, sink_kv=True, position_offset=9),
    "full_context, streaming": lambda: FullContextTransformer(**STACK, memory_budget=6),
    "full_context, streaming sink": lambda: FullContextTransformer(**STACK, memory_budget=6, sink_kv=True),
    "retrieval, few": lambda: RetrievalMemory(**STACK, **SEGMENTS, top_k=3),
    "retrieval, streaming": lambda: RetrievalMemory(**STACK, **SEGMENTS, top_k=3, memory_budget=10),
}


@pytest.fixture(params=MODELS)
def model(request):
    return make(request.param)


def make(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    for parameter_name, parameter in model.named_parameters():
        if "summary_queries" in parameter_name or "sink" in parameter_name:
            torch.nn.init.normal_(parameter)  # large enough to matter
    return model.eval()


def held(model, state):
    """Return the contents of a memory; of caches only the slots that hold something permanent."""
    entries, layout = state.to_dict(), model.cache_layout(state)
    if layout is not None:
        n = int(model.transformer.sink_kv) + len(layout) - 1  # except the slot of the next step
        n -= model.summary_length * int(entries["waiting"][0]) if "waiting" in entries else 0
        for name in ("keys", "values"):
            layers = [torch.cat(list(blocks.values()), 2) for blocks in entries[name].values()]
            entries[name] = [layer[:, :, :n] for layer in layers]
    return entries


def staggered_resets(steps=33):
    starts = [[0], [0, 7], [0, 1, 2, 20], [0, 32], [0, 10, 15, 20], [0, 16], []]
    is_init = torch.zeros(len(starts), steps, dtype=torch.bool)
    for row, steps_of_row in enumerate(starts):
        is_init[row, steps_of_row] = True
    return is_init


def test_forward_equals_stepping(model):
    x = torch.randn(3, 33, D)
    torch.testing.assert_close(model(x), step_through(model, x)[0], atol=1e-5, rtol=1e-5)


def test_forward_equals_stepping_with_staggered_resets(model):
    is_init = staggered_resets()
    x = torch.randn(*is_init.shape, D)
    stepped, _ = step_through(model, x, is_init)
    torch.testing.assert_close(model(x, is_init), stepped, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("staggered", [False, True])
def test_prefill_equals_stepping_and_is_gone_on_from(model, staggered):
    is_init = staggered_resets(35) if staggered else None
    x = torch.randn(7, 35, D)
    y, state = model.prefill(x, is_init)
    stepped, expected = step_through(model, x, is_init)
    torch.testing.assert_close(y, model(x, is_init), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(y, stepped, atol=1e-5, rtol=1e-5)
    assert not y.requires_grad
    assert model.state_nbytes(state) <= model.state_nbytes(expected)
    if not staggered:
        torch.testing.assert_close(held(model, state), held(model, expected), atol=1e-5, rtol=1e-5)
    for _ in range(13):  # across boundaries, and beyond the spare slots of either
        x_t = torch.randn(7, D)
        (ours, state), (theirs, expected) = model.step(x_t, state), model.step(x_t, expected)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for name, counter in expected.items(True, True):
        if counter.dtype == torch.int64:
            assert torch.equal(state[name], counter), name


def test_prefill_reads_in_the_fixed_length_of_acting(model):
    x = torch.randn(2, 35, D)
    expected, _ = model.prefill(x)
    assert torch.equal(model.train().prefill(x)[0], expected)
    assert model.auxiliary_loss() is None


def test_a_trial_is_blind_to_the_trial_before_it(model):
    x = torch.randn(2, 30, D)
    is_init = torch.zeros(2, 30, dtype=torch.bool)
    is_init[0, 13], is_init[1, 21] = True, True
    y = model(x, is_init)
    torch.testing.assert_close(y[:1, 13:], model(x[:1, 13:]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(y[1:, 21:], model(x[1:, 21:]), atol=1e-5, rtol=1e-5)


def test_a_row_is_blind_to_the_other_rows(model):
    is_init = staggered_resets()
    x = torch.randn(*is_init.shape, D)
    torch.testing.assert_close(model(x, is_init)[2:3], model(x[2:3], is_init[2:3]), atol=1e-5, rtol=1e-5)


def test_nothing_comes_from_the_future(model):
    x = torch.randn(2, 30, D, requires_grad=True)
    model(x)[:, 17].sum().backward()
    assert x.grad[:, 18:].abs().max() == 0
    assert x.grad[:, 17].abs().min() > 0


def test_gradient_reaches_all_parameters_and_inputs(model):
    model.train()
    x = torch.randn(2, 33, D, requires_grad=True)
    y = model(x, segment_length=5)
    loss = (y * torch.randn_like(y)).sum()
    auxiliary = model.auxiliary_loss()
    (loss if auxiliary is None else loss + auxiliary).backward()
    assert (x.grad.abs().sum(-1) > 0).all()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_stepping_leaves_the_weights_and_the_inputs_alone(model):
    weights = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 12, D)
    before = x.clone()
    y, _ = step_through(model, x)
    assert torch.equal(x, before)
    assert not y.requires_grad
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_state_nbytes_is_the_storage_allocated(model):
    x = torch.randn(3, 33, D)
    _, state = step_through(model, x)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in state.values(True, True)}
    assert model.state_nbytes(state) == sum(len(storage) for storage in storages.values())
    fresh = model.init_state(6)
    assert model.state_nbytes(fresh) == 2 * model.state_nbytes(model.init_state(3))
    assert fresh.batch_size == (6,)


def test_a_state_can_be_copied_and_continued(model):
    x = torch.randn(2, 20, D)
    expected = model(x)
    state = model.init_state(2)
    for t in range(13):
        _, state = model.step(x[:, t], state)
    branch = state.clone()
    for _ in range(13, 20):  # a second continuation, which must not affect the copy
        model.step(torch.randn(2, D), state)
    for t in range(13, 20):
        y, branch = model.step(x[:, t], branch)
        torch.testing.assert_close(y, expected[:, t], atol=1e-5, rtol=1e-5)


def test_all_rows_reset_is_a_fresh_start(model):
    x = torch.randn(2, 13, D)
    _, state = step_through(model, torch.randn(2, 17, D))
    for t in range(13):
        y, state = model.step(x[:, t], state, torch.full((2,), t == 0))
        torch.testing.assert_close(y, model(x)[:, t], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", [torch.bfloat16])
def test_autocast_acts_as_it_trains(model, precision):
    if isinstance(model, RetrievalMemory):
        model.top_k = 1000  # all of them, because rounding may change which are best
    x = torch.randn(2, 17, D)
    with torch.autocast("cpu", precision):
        stepped, _ = step_through(model, x)
        y = model(x)
    torch.testing.assert_close(stepped.float(), y.float(), atol=0.1, rtol=0.1)
    torch.testing.assert_close(y.float(), model(x), atol=0.2, rtol=0.2)


def test_a_state_of_another_batch_size_is_refused(model):
    with pytest.raises(ValueError, match=r"batch size \(2,\).*\(3,\)"):
        model.step(torch.randn(3, D), model.init_state(2))


@pytest.mark.parametrize("other", OPTIONS)
def test_a_state_of_another_model_is_refused(model, other):
    theirs = make(other).init_state(2)
    if set(theirs.keys()) == set(model.state_names):
        pytest.skip("keeps the same kind of memory")
    with pytest.raises(ValueError, match="another model"):
        model.step(torch.randn(2, D), theirs)


@pytest.mark.parametrize("other", ["memo", "autocompressor", "direct_kv", "rmt"])
@pytest.mark.parametrize("name", ["memo", "autocompressor", "direct_kv", "rmt"])
def test_a_state_of_the_same_sizes_from_another_kind_of_memory_is_refused(name, other):
    model, theirs = make(name), make(other).init_state(2)
    if name == other:
        model.step(torch.randn(2, D), theirs)
        return
    with pytest.raises(ValueError, match=rf"state belongs to another model: .* a {type(model).__name__} with") as error:
        model.step(torch.randn(2, D), theirs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["direct_kv", "rmt"])
def test_truncated_gradients_are_refused_where_nothing_can_be_detached(name):
    with pytest.raises(ValueError, match="gradient_segments=2: must be None for"):
        type(make(name))(**STACK, **SEGMENTS, gradient_segments=2)


def test_nan_is_refused(model):
    x = torch.randn(3, 7, D)
    x[1, 4, 2] = float("nan")
    with pytest.raises(ValueError, match=r"nan at index \[1, 4, 2\]"):
        model(x)
    with pytest.raises(ValueError, match=r"nan at index \[1, 2\]"):
        model.step(x[:, 4], model.init_state(3))


def test_wrong_shapes_and_flags_are_refused(model):
    with pytest.raises(ValueError, match=r"must be \[B, T, D\]"):
        model(torch.randn(3, D))
    with pytest.raises(ValueError, match=r"must be \[B, D\]"):
        model.step(torch.randn(3, D + 1), model.init_state(3))
    with pytest.raises(ValueError, match="is_init"):
        model(torch.randn(3, 4, D), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="is_init"):
        model.step(torch.randn(3, D), model.init_state(3), torch.zeros(4, dtype=torch.bool))


@pytest.mark.parametrize("name", OPTIONS)
def test_memory_spans_the_trial_unless_an_option_says_otherwise(name):
    assert make(name).memory_scope == OPTIONS[name].get("memory_scope", "trial")


@pytest.mark.parametrize("name", ["rmt", "lstm", "gru", "memoryless"])
def test_a_budget_for_a_memory_of_constant_size_is_refused(name):
    model = make(name)
    with pytest.raises(ValueError, match=r"memory_budget=64: .* has no cache to bound"):
        model.memory_budget = 64
    assert model.memory_budget is None


def test_a_step_reads_nothing_back_from_the_device(model, without_values):
    is_init = staggered_resets()
    state = model.to(without_values).init_state(len(is_init))
    for t in range(is_init.shape[1]):
        y, state = model.step(torch.empty(len(is_init), D, device=without_values), state, is_init[:, t])
    assert y.shape == (len(is_init), D)


@pytest.mark.cuda
def test_cuda_matches_cpu(model):
    is_init = staggered_resets()
    x = torch.randn(*is_init.shape, D)
    expected = model(x, is_init)
    model.cuda()
    x, is_init = x.cuda(), is_init.cuda()
    torch.testing.assert_close(model(x, is_init).cpu(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(step_through(model, x, is_init)[0].cpu(), expected, atol=1e-4, rtol=1e-4)
