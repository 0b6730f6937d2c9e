"""The views of the memory show what the model computes."""

import pytest
import torch

from memo_lightning.evaluation.memory_views import view_memory
from memo_lightning.models import MemoTransformer
from memo_lightning.models.summary_memory import SummaryMemory


def build(**changes):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32, "segment_length": 5, "summary_length": 2}
    model = MemoTransformer(**{**sizes, **changes}).double().eval()
    for parameter in model.parameters():
        parameter.data *= 3  # attention that is far from uniform
    return model


def test_attention_is_a_distribution_over_what_there_was():
    model, x = build(), torch.randn(3, 18, 16, dtype=torch.float64)
    attention = view_memory(model, x).attention
    assert attention.shape == (2, 3, 18, 4)
    assert torch.allclose(attention.sum(-1), torch.ones(2, 3, 18, dtype=torch.float64))
    assert (attention[:, :, :5, :3] == 0).all(), "the first segment has nothing to look back on"
    assert (attention[:, :, 5:10, 0] > 0).all()
    assert (attention[:, :, 5:10, 1:3] == 0).all(), "later summaries were not there yet"
    assert attention[:, :, 0, 3] == pytest.approx(1)


def test_attention_to_a_summary_is_what_its_removal_changes():
    """With values that are zero everywhere else, a layer's output is the share of the one summary times its value."""
    model, x = build(n_layers=1, n_heads=1), torch.randn(2, 8, 16, dtype=torch.float64)
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
    assert torch.allclose(seen[0][:, 0, 0], share)


def test_summaries_are_those_that_training_computes():
    model, x = build(), torch.randn(3, 15, 16, dtype=torch.float64)
    summaries = view_memory(model, x).summaries
    assert summaries.shape == (3, 3, 2, 16)
    queries = model.summary_queries.expand(3, -1, -1)
    nothing = SummaryMemory(1).view()
    whole, _ = model.run_block(torch.cat([x[:, :5], queries], dim=1), 0, nothing, slice(0))
    assert torch.allclose(summaries[:, 0], whole[:, 5:])


def test_a_memory_that_cannot_be_viewed_is_refused():
    with pytest.raises(ValueError, match="must be off"):
        view_memory(build(sink_kv=True), torch.zeros(1, 5, 16))
