import numpy as np
import pytest
import torch

from memo_lightning.evaluation.summary_attention import plot_summary_attention, summary_attention
from memo_lightning.models import MemoTransformer

L, S, T = 6, 2, 21


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = MemoTransformer(d_model=16, n_layers=1, n_heads=1, d_ff=16, segment_length=L, summary_length=S).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


def weights_by_hand(model, x, n_segments):
    """Return the attention ``[steps and queries, all tokens]`` of a segment in a model of one layer and head.

    The block is run whole, as [all older summaries | steps | queries], from the summaries that the model makes.
    """
    block, tokens = model.transformer.blocks[0], []
    for index in range(n_segments + 1):
        steps = x[0, index * L : (index + 1) * L]
        whole = torch.cat([*tokens, steps, model.summary_queries])
        n_before = S * index
        normed = block.attention_norm(whole)
        q, k, v = block.attention.qkv(normed).chunk(3, dim=-1)
        angles = torch.arange(len(whole))[:, None] / 10000 ** (torch.arange(0, 16, 2) / 16)
        q, k = (turned(part, angles) for part in (q, k))
        scores = (q @ k.T / 4).masked_fill(torch.ones(len(whole), len(whole)).triu(1).bool(), -torch.inf)
        weights = scores.softmax(-1)
        y = whole + block.attention.out(weights @ v)
        y = model.transformer.norm(y + block.feed_forward(block.feed_forward_norm(y)))
        tokens.append(y[n_before + len(steps) :])
    return weights[n_before:]


def turned(x, angles):
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)


@torch.no_grad()
def test_the_attention_is_that_of_the_whole_block(model):
    x = torch.randn(1, T, 16)
    attention = summary_attention(model, x)
    weights = weights_by_hand(model, x, 2).double().numpy()
    by_summary = weights[:L, : 2 * S].mean(0).reshape(2, S).sum(1)
    np.testing.assert_allclose(attention.read[2, :2], by_summary, rtol=1e-4)
    to_steps = weights[L:, 2 * S : 2 * S + L].mean(0)
    np.testing.assert_allclose(attention.written[2 * L : 3 * L], L * to_steps / to_steps.sum(), rtol=1e-4)


def test_every_closed_segment_is_written_and_only_older_summaries_are_read(model):
    attention = summary_attention(model, torch.randn(1, T, 16))
    closed = attention.written[: 3 * L].reshape(3, L)
    np.testing.assert_allclose(closed.mean(1), 1)
    assert np.isnan(attention.written[3 * L :]).all()
    assert attention.read.shape == (4, 4)
    assert (attention.read[np.triu_indices(4)] == 0).all()
    assert (attention.read[np.tril_indices(4, -1)] > 0).all()


def test_looking_changes_nothing(model):
    x = torch.randn(1, T, 16)
    before = model(x)
    summary_attention(model, x)
    assert torch.equal(model(x), before)


def test_the_plot_is_written(make_env, make_policy, tmp_path):
    env = make_env(1, 0)
    policy = make_policy(env).eval()
    trial = env.rollout(12, policy)[0]
    plot_summary_attention(policy, trial, tmp_path / "attention.png", "a trial")
    assert (tmp_path / "attention.png").stat().st_size > 10_000
