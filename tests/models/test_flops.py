"""FLOPs counted by torch's counter equal those derived by hand."""

import pytest
import torch

from memo_lightning.models import GRU, LSTM, FullContextTransformer, MemoTransformer
from memo_lightning.models.flops import count_flops

D, LAYERS, F, L, S = 16, 2, 48, 8, 3
STACK = {"d_model": D, "n_layers": LAYERS, "n_heads": 2, "d_ff": F}
WEIGHTS = LAYERS * (4 * D * D + 3 * D * F)  # multiply-adds per token outside attention


def attention(pairs, matmuls=2):
    return 2 * matmuls * LAYERS * D * pairs


def step_flops(model, first, n_steps):
    model.requires_grad_(False)
    _, state = model.prefill(torch.randn(1, first, D))
    with count_flops() as count:
        for _ in range(n_steps):
            _, state = model.step(torch.randn(1, D), state)
    return count.flops


def test_steps_of_full_context():
    expected = sum(2 * WEIGHTS + attention(t) for t in range(21, 31))
    assert step_flops(FullContextTransformer(**STACK), 20, 10) == expected


def test_steps_of_memo_with_the_creation_of_summaries():
    model = MemoTransformer(**STACK, segment_length=L, summary_length=S)
    old = 2 * S  # after two segments
    steps = sum(2 * WEIGHTS + attention(old + t) for t in range(1, L))
    # The last step and the queries attend to everything before them and causally to each other.
    reading = 2 * (1 + S) * WEIGHTS + attention((1 + S) * (old + L - 1) + (1 + S) * (2 + S) // 2)
    # The second pass over the previous summary, made by the first step, ends at the last layer's projection.
    pairs = S * (old - S) + S * (S + 1) // 2
    second_pass = (2 * S * WEIGHTS + attention(pairs)) * (LAYERS - 1) // LAYERS + 2 * S * 3 * D * D
    assert step_flops(model, 2 * L, L) == second_pass + steps + reading


@pytest.mark.parametrize("length", [5, 64])
def test_an_update_of_full_context_counts_what_the_causal_mask_leaves(length):
    model = FullContextTransformer(**STACK)
    with count_flops() as count:
        model(torch.randn(3, length, D, requires_grad=True)).sum().backward()
    pairs = length * (length + 1) // 2
    assert count.flops == 3 * (3 * 2 * WEIGHTS * length + attention(pairs, 2 + 5))
    assert any("flash_attention" in name for name in count.attention_kernels)


def test_an_update_of_memo():
    model = MemoTransformer(**STACK, segment_length=L, summary_length=S)
    n = 4
    with count_flops() as count:
        model(torch.randn(1, n * L, D, requires_grad=True), segment_length=L).sum().backward()
    pairs = tokens = 0
    for k in range(n):
        block = L + (S if k < n - 1 else 0) + (S if k > 0 else 0)  # observations, queries, the newest summary
        older = S * max(0, k - 1)
        tokens += block
        pairs += block * (block + 1) // 2 + block * older
    assert count.flops == 3 * 2 * WEIGHTS * tokens + attention(pairs, 2 + 5)


@pytest.mark.parametrize(("model_class", "n_gates"), [(LSTM, 4), (GRU, 3)])
def test_recurrent_memories(model_class, n_gates):
    model = model_class(D, LAYERS)
    weights = LAYERS * n_gates * 2 * D * D  # from the input and the previous state
    assert step_flops(model, 4, 10) == 10 * 2 * weights
    model.requires_grad_(True)
    with count_flops() as count:
        model(torch.randn(3, 7, D, requires_grad=True)).sum().backward()
    first_state = LAYERS * n_gates * D * D  # whose gradient GRU's own backward need not compute
    assert count.flops == pytest.approx(3 * 3 * 2 * weights * 7, abs=3 * 2 * 2 * first_state)
