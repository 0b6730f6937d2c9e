"""Summaries in a shared buffer equal tensors that are concatenated for every pass, including gradients."""

import pytest
import torch
import torch.nn.functional as F

from memo_lightning.models.summary_memory import SummaryMemory


def summary(n_rows, length=2):
    """Return the keys and values of one summary in two layers."""
    return [tuple(torch.randn(n_rows, 3, length, 4, requires_grad=True) for _ in range(2)) for _ in range(2)]


@pytest.mark.parametrize("kept", [10, 4, 0])
def test_views_equal_joined_tensors(kept):
    torch.manual_seed(0)
    rows = [3, 3, 2, 2, 1]
    appended = [summary(n_rows) for n_rows in rows]
    memory, views, expected = SummaryMemory(2 * len(rows)), [], []
    for n, n_rows in enumerate(rows):
        memory.keep_rows(n_rows)
        memory.append(appended[n])
        memory.keep_newest(kept)
        views += [tensor for layer in memory.view().layers for tensor in layer]
        for layer in range(2):
            for part in range(2):
                joined = torch.cat([old[layer][part][:n_rows] for old in appended[: n + 1]], dim=2)
                expected.append(joined[:, :, max(0, joined.shape[2] - kept) :])
    torch.testing.assert_close(views, expected)

    inputs = [tensor for new in appended for layer in new for tensor in layer]
    weights = [torch.randn_like(tensor) for tensor in expected]
    gradients, expected_gradients = (
        torch.autograd.grad([(a * b).sum() for a, b in zip(tensors, weights, strict=True)], inputs)
        for tensors in (views, expected)
    )
    torch.testing.assert_close(gradients, expected_gradients)


def test_later_summaries_do_not_disturb_what_was_read_before():
    """A pass keeps the buffer for its backward pass, which runs after more has been appended."""
    torch.manual_seed(0)
    first, second = summary(2), summary(2)
    queries, keys, values = (torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3))
    memory = SummaryMemory(4)
    memory.append(first)
    y = memory.view().attend(1, queries, keys, values)
    memory.append(second)
    inputs = [queries, keys, values, *first[1]]
    joined = (torch.cat([old, new], dim=2) for old, new in zip(first[1], (keys, values), strict=True))
    seen = torch.ones(5, 7, dtype=torch.bool).tril(2)
    expected = F.scaled_dot_product_attention(queries, *joined, attn_mask=seen)
    weight = torch.randn_like(y)
    gradients, expected_gradients = (torch.autograd.grad((out * weight).sum(), inputs) for out in (y, expected))
    torch.testing.assert_close(gradients, expected_gradients)


def test_reads_share_one_buffer():
    memory, storages = SummaryMemory(6), set()
    for _ in range(3):
        memory.append(summary(1))
        storages.add(memory.view().layers[0][0].untyped_storage().data_ptr())
    memory.keep_newest(2)
    storages.add(memory.view().layers[0][0].untyped_storage().data_ptr())
    assert len(storages) == 1
