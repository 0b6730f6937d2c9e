"""Attention that reads its context in place equals attention over one joined tensor."""

import pytest
import torch
import torch.nn.functional as F

from memo_lightning.models.context_attention import attend_to_context


def joined_attention(queries, keys, values, context):
    keys, values = torch.cat([context[0], keys], dim=2), torch.cat([context[1], values], dim=2)
    length, context = queries.shape[2], keys.shape[2]
    mask = torch.ones(length, context, dtype=torch.bool).tril(context - length)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


@pytest.mark.parametrize(("length", "context_length"), [(7, 8), (1, 4), (40, 600), (5, 0)])
def test_outputs_and_gradients_equal_joined_attention(length, context_length):
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, 3, n, 8, dtype=torch.float64, requires_grad=True)
        for n in (length, length, length, context_length, context_length)
    ]
    *own, context_keys, context_values = inputs
    weight = torch.randn_like(own[0])
    expected = joined_attention(*own, (context_keys, context_values))
    y = attend_to_context(*own, (context_keys, context_values))
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(
        torch.autograd.grad((y * weight).sum(), inputs, materialize_grads=True),
        torch.autograd.grad((expected * weight).sum(), inputs),
    )
