"""Recording attention: weights equal an independent calculation, and the model acts as without recording."""

import pytest
import torch

from memo_lightning.evaluation.memory_views import view_memory
from memo_lightning.models import (
    GRU,
    DirectKVTransformer,
    FullContextTransformer,
    MemoTransformer,
    RecurrentMemoryTransformer,
    RetrievalMemory,
)
from memo_lightning.models.attention_recorder import recorded_attention
from memo_lightning.models.rotary import rotate

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32}
SEGMENTS = {"segment_length": 4, "summary_length": 2, **SIZES}
N_STEPS = 14
MODELS = {
    "memo": lambda: MemoTransformer(**SEGMENTS),
    "memo, one token": lambda: MemoTransformer(**{**SEGMENTS, "summary_length": 1}),
    "memo, sink": lambda: MemoTransformer(sink_kv=True, **SEGMENTS),
    "memo, budget": lambda: MemoTransformer(memory_budget=8, **SEGMENTS),
    "direct_kv, budget": lambda: DirectKVTransformer(memory_budget=8, **SEGMENTS),
    "rmt": lambda: RecurrentMemoryTransformer(**SEGMENTS),
    "full context": lambda: FullContextTransformer(**SIZES),
    "full context, sink": lambda: FullContextTransformer(sink_kv=True, **SIZES),
    "full context, budget": lambda: FullContextTransformer(memory_budget=5, **SIZES),
    "retrieval": lambda: RetrievalMemory(top_k=3, **SEGMENTS),
    "retrieval, budget": lambda: RetrievalMemory(top_k=3, memory_budget=8, **SEGMENTS),
}


def sharp(model):
    """Make attention uneven; at initialisation a model attends to everything equally."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model.eval()


def step_through(model, x, starts=()):
    state, outputs = model.init_state(1), []
    for t in range(x.shape[1]):
        y, state = model.step(x[:, t], state, torch.tensor([t == 0 or t in starts]))
        outputs.append(y)
        yield y


def record(model, x, starts=()):
    with recorded_attention(model) as recorder:
        return recorder, [recorder.latest for _ in step_through(model, x, starts)]


@pytest.fixture
def x():
    return torch.randn(1, N_STEPS, SIZES["d_model"], generator=torch.Generator().manual_seed(0))


def weights_of_whole_sequences(model, x, window):
    """Return the attention of a full-context transformer, ``[layers * H, T, 1 + T]``, by plain matrix products."""
    stack, rows = model.transformer, []
    cos, sin = stack.rotary(torch.arange(x.shape[1]), torch.float32)
    age = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
    hidden = (age < 0) | (age >= window)
    for block in stack.blocks:
        qkv = block.attention.qkv(block.attention_norm(x)).view(x.shape[1], 3, stack.n_heads, -1).permute(1, 2, 0, 3)
        queries, keys, values = rotate(qkv[0], cos, sin), rotate(qkv[1], cos, sin), qkv[2]
        scores = (queries @ keys.mT / stack.head_dim**0.5).masked_fill(hidden, -torch.inf)
        sink_scores, sink_values = torch.full_like(scores[..., :1], -torch.inf), values[:, :1] * 0
        if block.attention.sink:
            sink_scores = queries @ block.attention.sink[0][0].mT / stack.head_dim**0.5
            sink_values = block.attention.sink[1][0]
        weights = torch.cat([sink_scores, scores], -1).softmax(-1)
        rows.append(weights)
        read = weights @ torch.cat([sink_values, values], 1)
        x = x + block.attention.out(read.transpose(0, 1).flatten(1))
        x = x + block.feed_forward(block.feed_forward_norm(x))
    return torch.cat(rows)


@pytest.mark.parametrize("name", ["full context", "full context, sink", "full context, budget"])
@torch.no_grad()
def test_weights_of_full_context_are_those_of_plain_matrices(name, x):
    model = sharp(MODELS[name]())
    recorder, steps = record(model, x)
    assert recorder.rows == [("1", 1), ("1", 2), ("2", 1), ("2", 2)]
    expected = weights_of_whole_sequences(model, x, model.memory_budget or N_STEPS)
    for t, step in enumerate(steps):
        assert step.tokens.tolist() == list(range(max(0, t + 1 - (model.memory_budget or N_STEPS)), t + 1))
        torch.testing.assert_close(step.weights, expected[:, t, 1 + step.tokens])
        torch.testing.assert_close(step.sink, expected[:, t, 0])


@pytest.mark.parametrize("name", ["memo", "memo, one token", "memo, sink", "memo, budget", "rmt"])
@torch.no_grad()
def test_weights_of_memo_are_those_of_whole_sequences(name, x):
    model = sharp(MODELS[name]())
    view = view_memory(model, x).attention[:, 0]  # [layers, T, n + 1], mean over heads
    _, steps = record(model, x)
    for t, step in enumerate(steps):
        by_layer = step.weights.unflatten(0, (2, 2)).mean(1)
        own = step.tokens >= 0
        torch.testing.assert_close(by_layer[:, own].sum(1), view[:, t, -1])
        summaries = torch.zeros_like(view[:, t, :-1])
        summaries[:, -1 - step.tokens[~own]] = by_layer[:, ~own]
        torch.testing.assert_close(summaries, view[:, t, :-1])
        assert step.tokens[own].tolist() == list(range(t - t % 4, t + 1))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_head_gives_all_it_has_and_the_model_acts_as_if_nobody_looked(name, x):
    model = sharp(MODELS[name]())
    alone = torch.stack(list(step_through(model, x)))
    with recorded_attention(model) as recorder:
        watched = torch.stack(list(step_through(model, x)))
    assert torch.equal(alone, watched)
    _, steps = record(model, x)
    for t, step in enumerate(steps):
        n = len(recorder.rows) - (recorder.rows[-1] == ("store", 1) and t < 4)  # nothing is stored before a segment
        torch.testing.assert_close((step.weights.sum(1) + step.sink)[:n], torch.ones(n))
        assert step.tokens[-1] == t
        assert step.weights.shape == (len(recorder.rows), len(step.tokens))


@torch.no_grad()
def test_a_store_is_read_by_its_best_entries(x):
    model = sharp(MODELS["retrieval"]())
    _, steps = record(model, x)
    state = model.init_state(1)
    for t, step in enumerate(steps):
        n_before = t // 4
        keys = state["store_keys"][0].clone()
        _, state = model.step(x[:, t], state, torch.tensor([t == 0]))
        if not n_before:
            continue
        best, index = (keys[: 2 * n_before] @ model.query(state["encoded"][0, t % 4]) / 4).topk(min(3, 2 * n_before))
        expected = torch.zeros(n_before).index_add(0, index // 2, best.softmax(0))
        given = {int(-1 - token): float(step.weights[-1, k]) for k, token in enumerate(step.tokens) if token < 0}
        assert given == pytest.approx(dict(enumerate(expected.tolist())), abs=1e-5)


def test_a_memory_that_begins_anew_within_a_recording_keeps_the_numbers_of_the_steps(x):
    _, steps = record(sharp(MODELS["full context"]()), x, starts=[5])
    assert steps[4].tokens.tolist() == [0, 1, 2, 3, 4]
    assert steps[6].tokens.tolist() == [5, 6]


def test_nothing_is_left_behind_in_the_model(x):
    model = MODELS["memo"]()
    before = dict(model.__dict__), dict(model.transformer.__dict__)
    with recorded_attention(model), pytest.raises(ValueError, match="must be 1 to record"):
        model.step(x[0, :2], model.init_state(2))
    assert (dict(model.__dict__), dict(model.transformer.__dict__)) == before


def test_a_model_without_attention_has_no_rows(x):
    recorder, steps = record(GRU(d_model=16, n_layers=1), x)
    assert recorder.rows == []
    assert steps == [None] * N_STEPS


def test_a_subclass_with_a_cache_of_its_own_is_not_misread(x):
    class Padded(FullContextTransformer):
        def cache_layout(self, state):
            return super().cache_layout(state)[:-1]

    _, steps = record(Padded(**SIZES), x)
    assert steps == [None] * N_STEPS
