"""Memo whose summaries get no older than a number of segments: positions stay those of training."""

import math

import pytest
import torch

from memo_lightning.models import MemoTransformer, RecurrentMemoryTransformer
from memo_lightning.models.direct_kv import DirectKVTransformer
from memo_lightning.models.fixed_state import FixedStep
from memo_lightning.models.rotary import rotate
from stepping import step_through

L, S = 5, 2
SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32, "segment_length": L, "summary_length": S}


def make(max_summary_age=None, **settings):
    torch.manual_seed(0)
    model = MemoTransformer(**SIZES, max_summary_age=max_summary_age, **settings)
    torch.nn.init.normal_(model.summary_queries)  # large enough that the summaries matter
    return model.eval()


def naive(model, x, oldest):
    """Return the outputs by a loop over segments, each of which counts positions from its own first step.

    Keys are held without rotation, and rotated to where the segment sees them: a summary of age a at -min(a, oldest) S.
    """

    def rotated(vectors, positions):
        return rotate(vectors, *model.transformer.rotary(positions, vectors.dtype))

    no_turn = torch.ones(1, 4, dtype=x.dtype), torch.zeros(1, 4, dtype=x.dtype)
    held = [[] for _ in model.transformer.blocks]  # per layer, keys and values of the summaries
    newest, outputs = x[:, :0], []
    segments = x.split(L, 1)
    for n, segment in enumerate(segments):
        queries = model.summary_queries.expand(len(x), -1, -1)[:, : S if n < len(segments) - 1 else 0]
        hidden = torch.cat([newest, segment, queries], 1)
        positions = torch.arange(hidden.shape[1]) - newest.shape[1]
        is_hidden = torch.ones(len(positions), len(positions), dtype=torch.bool).triu(1)
        for layer, block in zip(held, model.transformer.blocks, strict=True):
            q, k, v = block.attention.project(block.attention_norm(hidden), *no_turn)
            ages = [min(n - i, oldest) for i in range(len(layer))]
            keys = [rotated(key, torch.arange(S) - age * S) for age, (key, _) in zip(ages, layer, strict=True)]
            keys = torch.cat([*keys, rotated(k, positions)], 2)
            values = torch.cat([*(value for _, value in layer), v], 2)
            scores = rotated(q, positions) @ keys.mT / math.sqrt(q.shape[-1])
            scores[..., -len(positions) :].masked_fill_(is_hidden, -torch.inf)
            read = scores.softmax(-1) @ values
            hidden = hidden + block.attention.out(read.transpose(1, 2).flatten(2))
            hidden = hidden + block.feed_forward(block.feed_forward_norm(hidden))
            if newest.shape[1]:
                layer.append((k[:, :, :S], v[:, :, :S]))
        y = model.transformer.norm(hidden)[:, newest.shape[1] :]
        outputs.append(y[:, : segment.shape[1]])
        newest = y[:, segment.shape[1] :]
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("oldest", [1, 2, 3, 100])
def test_outputs_and_gradients_equal_a_naive_loop(oldest):
    model, reference = make(oldest), make(oldest)
    x = torch.randn(3, 43, 16)
    y, expected = model(x), naive(reference, x, oldest)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    y.square().sum().backward()
    expected.square().sum().backward()
    for (name, one), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=2e-3, rtol=1e-3, msg=name)


def test_double_precision_is_kept():
    model = make(2).double()
    x = torch.randn(2, 43, 16, dtype=torch.float64)
    expected = naive(model, x, 2)
    torch.testing.assert_close(model(x), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(step_through(model, x)[0], expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("budget", [None, L + 5 * S, L + 2 * S, L + S])
@pytest.mark.parametrize("oldest", [1, 2, 3])
def test_stepping_equals_reading_with_staggered_resets(oldest, budget):
    model = make(oldest, memory_budget=budget, sink_kv=True)
    x, is_init = torch.randn(4, 47, 16), torch.zeros(4, 47, dtype=torch.bool)
    for row, starts in enumerate([[0], [0, 7], [0, 1, 2, 20], [0, 32]]):
        is_init[row, starts] = True
    expected = model(x, is_init)
    torch.testing.assert_close(step_through(model, x, is_init)[0], expected, atol=1e-5, rtol=1e-5)
    y, state = model.prefill(x[:, :33], is_init[:, :33])
    torch.testing.assert_close(y, expected[:, :33], atol=1e-5, rtol=1e-5)
    for t in range(33, 47):
        y, state = model.step(x[:, t], state)
        torch.testing.assert_close(y, expected[:, t], atol=1e-5, rtol=1e-5)


def test_nothing_changes_while_no_summary_is_older():
    x = torch.randn(2, 4 * L, 16)
    torch.testing.assert_close(make(3)(x), make()(x), atol=0, rtol=0)
    torch.testing.assert_close(step_through(make(3), x)[0], step_through(make(), x)[0], atol=0, rtol=0)
    longer = torch.randn(2, 5 * L, 16)
    assert not torch.allclose(make(3)(longer)[:, -L:], make()(longer)[:, -L:], atol=1e-3)


def test_old_and_very_old_summaries_are_at_the_same_distance():
    """The order of two summaries beyond the limit makes no difference, as their distances do not."""
    model = make(1)
    state = model.init_state(1)
    for x_t in torch.randn(9 * L, 1, 16):
        _, state = model.step(x_t, state)
    swapped = state.clone()
    for part in ("keys", "values"):
        for layer in ("0", "1"):
            held = swapped[part, layer, "0"]
            held[:, :, : 2 * S] = held[:, :, [*range(S, 2 * S), *range(S)]]
    x_t = torch.randn(1, 16)
    y, _ = model.step(x_t, state)
    other, _ = model.step(x_t, swapped)
    torch.testing.assert_close(y, other, atol=1e-6, rtol=1e-5)


def test_the_state_says_which_limit_it_was_made_with():
    with pytest.raises(ValueError, match=r"must come from a MemoTransformer .* and max_summary_age=3"):
        make(3).step(torch.zeros(1, 16), make(2).init_state(1))


@pytest.mark.parametrize("oldest", [1, 2, 3])
@pytest.mark.parametrize(("n_kept", "sink_kv"), [(5, True), (5, False), (2, False), (1, True)])
def test_a_state_of_fixed_shape_holds_the_same(oldest, n_kept, sink_kv):
    model = make(oldest, memory_budget=L + n_kept * S, sink_kv=sink_kv)
    x, is_init = torch.randn(4, 47, 16), torch.zeros(4, 47, dtype=torch.bool)
    for row, starts in enumerate([[0], [0, 7], [0, 1, 2, 20], [0, 32]]):
        is_init[row, starts] = True
    step, state, outputs = FixedStep(model), model.init_fixed_state(4), []
    for t in range(47):
        y, state = step(x[:, t], state, is_init[:, t])
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), model(x, is_init), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (MemoTransformer, {"max_summary_age": 0}, "max_summary_age=0: must be at least 1, or None"),
        (
            MemoTransformer,
            {"max_summary_age": 2, "gradient_segments": 2},
            "max_summary_age=2 and gradient_segments=2: .* set max_summary_age=null",
        ),
        (DirectKVTransformer, {"max_summary_age": 2}, "max_summary_age=2: must be None for DirectKVTransformer"),
        (RecurrentMemoryTransformer, {"max_summary_age": 2}, "max_summary_age=2: must be None for RecurrentMemory"),
    ],
)
def test_what_does_not_fit_is_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**SIZES, **settings)
