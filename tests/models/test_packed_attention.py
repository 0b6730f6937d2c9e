"""Packed trials: each attends to exactly what masks would allow."""

import pytest
import torch
import torch.nn.functional as F

from memo_lightning.models import FullContextTransformer, packed_attention
from memo_lightning.models.packed_attention import PackedTrials, variable_length_attention

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32}


def one_by_one(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size):
    """Torch's operator as documented: a loop over sequences."""
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert cu_seq_q.dtype == torch.int32
    assert max_q == max_k == cu_seq_q.diff().max()
    outputs = []
    for start, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        steps = torch.arange(end - start)
        distance = steps[:, None] - steps
        mask = (distance >= 0) & ((distance <= window_size[0]) | (window_size[0] == -1))
        parts = (part[start:end].transpose(0, 1) for part in (query, key, value))
        outputs.append(F.scaled_dot_product_attention(*parts, attn_mask=mask).transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def packing(monkeypatch):
    monkeypatch.setattr(packed_attention, "variable_length_attention", lambda: one_by_one)

    def switch(on):
        monkeypatch.setattr(PackedTrials, "serve", staticmethod(lambda queries: on))

    return switch


@pytest.mark.parametrize("budget", [None, 1, 3, 100])
@pytest.mark.parametrize("staggered", [True, False])
def test_outputs_and_gradients_equal_those_of_masks(budget, staggered, packing):
    torch.manual_seed(0)
    model = FullContextTransformer(**SIZES, memory_budget=budget).double()
    x = torch.randn(3, 12, 16, dtype=torch.float64, requires_grad=True)
    is_init = torch.zeros(3, 12, dtype=torch.bool)
    if staggered:
        is_init[0, 5] = is_init[0, 6] = is_init[2, 11] = True
    results = []
    for packed in (False, True):
        packing(packed)
        y = model(x, is_init)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])))
    torch.testing.assert_close(results[1], results[0])


def test_with_a_sink_masks_remain(packing):
    model = FullContextTransformer(**SIZES, sink_kv=True)
    is_init = torch.zeros(2, 6, dtype=torch.bool)
    is_init[1, 2] = True
    x = torch.randn(2, 6, 16)
    packing(False)
    expected = model(x, is_init)
    packing(True)
    assert torch.equal(model(x, is_init), expected)


def test_torchs_operator_takes_what_it_is_given(monkeypatch):
    """Uses tensors without data, so it only checks arguments and shapes."""
    assert variable_length_attention() is not None
    trials = PackedTrials(torch.tensor([[0, 0, 0, 3, 3], [0, 1, 1, 1, 1]]), window=2)
    assert trials._ends.tolist() == [0, 3, 5, 6, 10]
    trials._ends = trials._ends.to("meta")
    tensors = [torch.empty(2, 3, 5, 8, device="meta", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    y = trials.attend(*tensors)
    gradients = torch.autograd.grad(y, tensors, torch.empty_like(y))
    assert {part.shape for part in (y, *gradients)} == {tensors[0].shape}


def test_it_serves_half_precision_on_cuda_only():
    assert not PackedTrials.serve(torch.empty(1, 1, 1, 8))
    assert not PackedTrials.serve(torch.empty(1, 1, 1, 8, dtype=torch.bfloat16))


@pytest.mark.cuda
@pytest.mark.parametrize("budget", [None, 30])
def test_packed_trials_on_a_card_equal_masks(budget, monkeypatch):
    torch.manual_seed(0)
    sizes = {"d_model": 128, "n_layers": 2, "n_heads": 4, "d_ff": 128}
    model = FullContextTransformer(**sizes, memory_budget=budget).cuda()
    is_init = torch.rand(4, 200, device="cuda") < 0.03
    x = torch.randn(4, 200, 128, device="cuda")
    outputs = []
    with torch.autocast("cuda", torch.bfloat16):
        outputs.append(model(x, is_init))
        monkeypatch.setattr(PackedTrials, "serve", staticmethod(lambda queries: False))
        outputs.append(model(x, is_init))
    packed, masked = outputs
    assert (packed - masked).norm() < 1e-2 * masked.norm()  # single outputs may differ by more in bfloat16
