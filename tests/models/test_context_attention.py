"""Attention that reads its context in place: equal to attention over one joined tensor."""

import pytest
import torch
import torch.nn.functional as F

from memo_lightning.models.context_attention import attend_to_context


def joined_attention(queries, keys, values, parts):
    keys = torch.cat([*(part[0] for part in parts), keys], dim=2)
    values = torch.cat([*(part[1] for part in parts), values], dim=2)
    length, context = queries.shape[2], keys.shape[2]
    mask = torch.ones(length, context, dtype=torch.bool).tril(context - length)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


@pytest.mark.parametrize(("length", "part_lengths"), [(7, [3, 3, 2]), (1, [4]), (40, [600]), (5, [])])
def test_outputs_and_gradients_equal_joined_attention(length, part_lengths):
    torch.manual_seed(0)

    def tensors(n, count):
        return tuple(torch.randn(2, 3, n, 8, dtype=torch.float64, requires_grad=True) for _ in range(count))

    queries, keys, values = tensors(length, 3)
    parts = [tensors(n, 2) for n in part_lengths]
    buffer = torch.full((2, 2, 3, sum(part_lengths) + 9, 8), torch.nan, dtype=torch.float64)
    context = buffer[:, :, :, : sum(part_lengths)]
    if parts:
        context.copy_(torch.stack([torch.cat(x, dim=2) for x in zip(*parts, strict=True)]).detach())

    inputs = [queries, keys, values, *(tensor for part in parts for tensor in part)]
    weight = torch.randn_like(queries)
    expected = joined_attention(queries, keys, values, parts)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), inputs)
    y = attend_to_context(queries, keys, values, tuple(context), parts)
    buffer[:, :, :, sum(part_lengths) :] = 1.0  # later passes append; that must not disturb this one
    gradients = torch.autograd.grad((y * weight).sum(), inputs)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients, expected_gradients)
