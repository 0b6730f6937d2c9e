"""Attention in parts: every kernel agrees with attention over the joined parts, or is not chosen."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from memo_lightning.models import attention_kernels
from memo_lightning.models.attention import causal_attention
from memo_lightning.models.attention_kernels import (
    CPUFlashKernel,
    EfficientKernel,
    FlashKernel,
    MathKernel,
    find_operator,
    kernel_for,
)
from memo_lightning.models.context_attention import attend_to_context

KERNELS = {"math": MathKernel(), "cpu_flash": CPUFlashKernel.found()}


@pytest.fixture
def choosing_anew():
    attention_kernels._choose.cache_clear()
    yield
    attention_kernels._choose.cache_clear()


def inputs(length, context_length, dtype, device="cpu", head_dim=8):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, n, head_dim, generator=generator).to(device, dtype).requires_grad_()
        for n in (length, length, length, context_length, context_length)
    ]


def joined_attention(queries, keys, values, context_keys, context_values):
    keys, values = torch.cat([context_keys, keys], dim=2), torch.cat([context_values, values], dim=2)
    length, n_keys = queries.shape[2], keys.shape[2]
    mask = torch.ones(length, n_keys, dtype=torch.bool, device=queries.device).tril(n_keys - length)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def check_against_joined_attention(kernel, tensors, **tolerance):
    weight = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1)).to(tensors[0])
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in tensors]
    expected = joined_attention(*exact)
    y = attend_to_context(*tensors[:3], tuple(tensors[3:]), kernel)
    assert y.dtype == tensors[0].dtype
    gradients = torch.autograd.grad((y * weight).sum(), tensors)
    expected_gradients = torch.autograd.grad((expected * weight.cpu().double()).sum(), exact)
    for ours, theirs in zip([y, *gradients], [expected, *expected_gradients], strict=True):
        torch.testing.assert_close(ours.cpu().double(), theirs, **tolerance)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize(("length", "context_length"), [(7, 8), (1, 4), (4, 1), (40, 300)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5), (torch.bfloat16, 6e-2)])
def test_two_parts_equal_joined_attention(kernel, length, context_length, dtype, tolerance):
    check_against_joined_attention(kernel, inputs(length, context_length, dtype), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_part_equals_flex_attention_with_its_log_sum_exp(kernel, is_causal):
    queries, keys, values, *_ = (tensor.detach() for tensor in inputs(16, 1, torch.float32, head_dim=16))

    def unseen(score, batch, head, query, key):
        return torch.where(query >= key, score, -torch.inf)

    score_mod = unseen if is_causal else None
    output, aux = flex_attention(queries, keys, values, score_mod, return_aux=AuxRequest(lse=True))
    part = kernel.forward(queries, keys, values, is_causal)
    torch.testing.assert_close(part.output, output, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(part.log_sum, aux.lse, atol=1e-5, rtol=1e-5)


def test_plain_products_are_not_made_coarse_by_autocast():
    queries, keys, values, *_ = (tensor.detach() for tensor in inputs(16, 1, torch.bfloat16))
    expected = MathKernel().forward(queries, keys, values, is_causal=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = MathKernel().forward(queries, keys, values, is_causal=True)
    assert found.log_sum.dtype == torch.float32
    assert torch.equal(found.log_sum, expected.log_sum)
    assert torch.equal(found.output, expected.output)


def test_a_log_sum_exp_may_be_padded():
    class Padded(MathKernel):
        """Pads with infinity, like the memory-efficient operator."""

        def forward(self, queries, keys, values, is_causal):
            part = super().forward(queries, keys, values, is_causal)
            return part._replace(log_sum=F.pad(part.log_sum, (0, 25), value=torch.inf))

        def backward(self, gradient, queries, keys, values, whole, is_causal):
            assert whole.log_sum[..., 7:].eq(torch.inf).all()
            whole = whole._replace(log_sum=whole.log_sum[..., :7])
            return super().backward(gradient, queries, keys, values, whole, is_causal)

    check_against_joined_attention(Padded(), inputs(7, 9, torch.float64), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("dtype", "head_dim", "capability", "kernel"),
    [
        (torch.bfloat16, 64, (9, 0), FlashKernel),
        (torch.float16, 64, (8, 0), FlashKernel),
        (torch.float16, 64, (7, 5), EfficientKernel),
        (torch.float32, 64, (9, 0), EfficientKernel),
        (torch.bfloat16, 512, (9, 0), EfficientKernel),
        (torch.bfloat16, 4, (9, 0), MathKernel),
        (torch.float32, 2, (9, 0), MathKernel),
        (torch.float64, 64, (9, 0), MathKernel),
    ],
)
def test_the_kernel_on_cuda_and_that_torch_takes_its_arguments(
    dtype, head_dim, capability, kernel, monkeypatch, choosing_anew
):
    """Torch checks arguments and infers shapes without a GPU, on tensors without data."""
    monkeypatch.setattr(attention_kernels, "_compute_capability", lambda device: capability)
    with FakeTensorMode():
        queries, keys, values = (torch.empty(2, 3, n, head_dim, dtype=dtype, device="cuda") for n in (37, 80, 80))
        chosen = kernel_for(queries)
        assert type(chosen) is kernel
        part = chosen.forward(queries, keys, values, is_causal=False)
        gradients = chosen.backward(torch.empty_like(queries), queries, keys, values, part, is_causal=False)
    assert part.output.shape == queries.shape
    assert part.log_sum.shape == (2, 3, 64 if kernel is EfficientKernel else 37)
    assert [gradient.shape for gradient in gradients] == [queries.shape, keys.shape, values.shape]
    assert {part.output.dtype, *(gradient.dtype for gradient in gradients)} == {dtype}


@pytest.mark.parametrize("kernel", [FlashKernel, EfficientKernel])
def test_the_parts_of_cudas_kernels_are_merged(kernel):
    """Uses tensors without data, so it only checks that shapes and types fit."""
    tensors = inputs(37, 80, torch.bfloat16, "meta", head_dim=16)
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    y = attend_to_context(*tensors[:3], tuple(tensors[3:]), kernel.found())
    gradients = torch.autograd.grad(y, tensors, torch.empty_like(y))
    assert (y.shape, y.dtype) == (tensors[0].shape, torch.bfloat16)
    assert [gradient.shape for gradient in gradients] == [tensor.shape for tensor in tensors]


@pytest.mark.parametrize(("missing", "kernel"), [(["flash"], EfficientKernel), (["flash", "efficient"], MathKernel)])
def test_where_torch_has_no_such_operator_the_next_one_is_chosen(missing, kernel, monkeypatch, choosing_anew):
    monkeypatch.setattr(attention_kernels, "_compute_capability", lambda device: (9, 0))
    find = attention_kernels.find_operator

    def find_some(name, *arguments):
        return None if any(word in name for word in missing) else find(name, *arguments)

    monkeypatch.setattr(attention_kernels, "find_operator", find_some)
    with FakeTensorMode():
        queries = torch.empty(2, 3, 37, 64, dtype=torch.bfloat16, device="cuda")
    assert type(kernel_for(queries)) is kernel


def test_without_torchs_operator_the_cpu_falls_back_too(monkeypatch, choosing_anew):
    monkeypatch.setattr(attention_kernels, "find_operator", lambda *arguments: None)
    assert type(kernel_for(torch.empty(1, 1, 1, 8))) is MathKernel
    check_against_joined_attention(None, inputs(7, 9, torch.float64), atol=1e-9, rtol=1e-9)


def test_an_operator_that_takes_other_arguments_is_not_taken():
    assert find_operator("scaled_dot_product_attention", ("query", "key", "value")) is not None
    assert find_operator("scaled_dot_product_attention", ("query", "value", "key")) is None
    assert find_operator("scaled_dot_product_attention", ("query", "key")) is None  # value is required
    assert find_operator("scaled_dot_product_attention", ("query", "key", "value"), ("output",)) is None
    assert find_operator("no_such_operator", ()) is None


@pytest.mark.cuda
@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize(("length", "context_length"), [(7, 8), (1, 4), (288, 480)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 6e-2), (torch.float16, 1e-2)])
def test_two_parts_on_a_card_equal_joined_attention(head_dim, length, context_length, dtype, tolerance):
    tensors = inputs(length, context_length, dtype, "cuda", head_dim)
    check_against_joined_attention(None, tensors, atol=tolerance, rtol=tolerance)


def test_the_mask_on_cuda_is_the_one_of_the_cpu():
    queries, keys, values, *_ = (tensor.detach() for tensor in inputs(5, 1, torch.float32))
    keys, values = (torch.cat([part, part], dim=2) for part in (keys, values))
    mask = causal_lower_right(5, 10)
    expected = causal_attention(queries, keys, values)
    torch.testing.assert_close(F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask), expected)
