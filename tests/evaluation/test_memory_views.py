"""The views of the memory show what the model computes, compared with a block computed by hand and with stepping."""

import pytest
import torch

from memo_lightning.evaluation.memory_views import view_memory
from memo_lightning.models import MemoTransformer
from memo_lightning.models.summary_memory import SummaryMemory

L, S = 5, 2


def build(**changes):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32, "segment_length": L, "summary_length": S}
    model = MemoTransformer(**{**sizes, **changes}).double().eval()
    for parameter in model.parameters():
        parameter.data *= 3  # makes attention far from uniform
    return model


def random_rows(batch, n_steps):
    return torch.randn(batch, n_steps, 16, dtype=torch.float64)


def turned(x, angles):
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)


@torch.no_grad()
def weights_by_hand(model, x, n_segments):
    """Return the attention ``[steps + queries, sink + all tokens]`` of a segment in a model with one layer and head.

    The whole block [all older summaries | steps | queries] is computed from the model's own summaries.
    """
    block, tokens = model.transformer.blocks[0], []
    sink = block.attention.sink or (torch.empty(1, 1, 0, 16), torch.empty(1, 1, 0, 16))
    sink_key, sink_value = (part[0, 0].double() for part in sink)
    for index in range(n_segments + 1):
        whole = torch.cat([*tokens, x[0, index * L : (index + 1) * L], model.summary_queries])
        q, k, v = block.attention.qkv(block.attention_norm(whole)).chunk(3, dim=-1)
        angles = torch.arange(len(whole))[:, None] / 10000 ** (torch.arange(0, 16, 2) / 16)
        q, k = (turned(part, angles) for part in (q, k))
        hidden = torch.ones(len(whole), len(whole)).triu(1).bool()
        scores = torch.cat([q @ sink_key.T / 4, (q @ k.T / 4).masked_fill(hidden, -torch.inf)], dim=1)
        weights = scores.softmax(-1)
        y = whole + block.attention.out(weights @ torch.cat([sink_value, v]))
        y = model.transformer.norm(y + block.feed_forward(block.feed_forward_norm(y)))
        tokens.append(y[-S:])
    return weights[S * n_segments :, len(sink_key) :]


@pytest.mark.parametrize("sink_kv", [False, True])
def test_the_attention_is_that_of_the_whole_block(sink_kv):
    model, x = build(n_layers=1, n_heads=1, sink_kv=sink_kv), random_rows(1, 18)
    view, weights = view_memory(model, x), weights_by_hand(model, x, 2)
    steps, queries = weights[:L], weights[L:]
    by_summary = steps[:, : 2 * S].unflatten(1, (2, S)).sum(-1)
    torch.testing.assert_close(view.attention[0, 0, 2 * L : 3 * L, :2], by_summary)
    torch.testing.assert_close(view.attention[0, 0, 2 * L : 3 * L, -1], steps[:, 2 * S :].sum(1))
    torch.testing.assert_close(view.written[0, 0, 2], queries[:, 2 * S : 2 * S + L].mean(0))
    assert (view.attention.sum(-1) < 1 - 1e-3).all() == sink_kv


def test_attention_is_a_distribution_over_what_there_was():
    attention = view_memory(build(), random_rows(3, 18)).attention
    assert attention.shape == (2, 3, 18, 4)
    assert torch.allclose(attention.sum(-1), torch.ones(2, 3, 18, dtype=torch.float64))
    assert (attention[:, :, :5, :3] == 0).all(), "the first segment has nothing to look back on"
    assert (attention[:, :, 5:10, 0] > 0).all()
    assert (attention[:, :, 5:10, 1:3] == 0).all(), "later summaries were not there yet"
    assert attention[:, :, 0, 3] == pytest.approx(1)


def test_a_budget_hides_the_oldest_summaries():
    attention = view_memory(build(memory_budget=L + 2 * S), random_rows(3, 20)).attention
    assert (attention[:, :, 15:, 0] == 0).all()
    assert (attention[:, :, 15:, 1:3] > 0).all()
    assert torch.allclose(attention.sum(-1), torch.ones(2, 3, 20, dtype=torch.float64))


def test_attention_to_a_summary_is_what_its_removal_changes():
    """If all other values are zero, a layer's output is the attention weight of one summary times its value."""
    model, x = build(n_layers=1, n_heads=1), random_rows(2, 8)
    share = view_memory(model, x).attention[0, :, 7, 0]
    state = model.init_state(2)
    for step in range(7):
        _, state = model.step(x[:, step], state)
    seen = []
    values = state["values"]["0"]
    values[:] = 0
    values[:, :, :2] = 1  # the summary's two tokens
    attention = model.transformer.blocks[0].attention
    attention.qkv.weight.data[32:] = 0  # the step's own value
    attention.out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.step(x[:, 7], state)
    assert torch.allclose(seen[0][:, 0], share)


def test_summaries_are_those_that_training_computes():
    model, x = build(), random_rows(3, 15)
    summaries = view_memory(model, x).summaries
    assert summaries.shape == (3, 3, 2, 16)
    queries = model.summary_queries.expand(3, -1, -1)
    nothing = SummaryMemory(1).view()
    whole, _ = model.run_block(torch.cat([x[:, :5], queries], dim=1), 0, nothing, slice(0))
    assert torch.allclose(summaries[:, 0], whole[:, 5:])


def test_looking_changes_nothing():
    model, x = build(), random_rows(1, 18)
    before = model(x)
    view_memory(model, x)
    assert torch.equal(model(x), before)
