"""Retrieval: steps read the best items of the store, and summaries learn to represent their segments."""

import pytest
import torch

from memo_lightning.models import RetrievalMemory
from memo_lightning.models.sequence_context import SequenceContext
from tiny import MEMO_SIZES


def small_model(**settings):
    torch.manual_seed(0)
    model = RetrievalMemory(**MEMO_SIZES, **settings)
    torch.nn.init.normal_(model.summary_queries)
    return model.eval()


def record_reads(model, x):
    """Step through ``x`` and return what every step read, with the state it read from."""
    reads, state = [], model.init_state(x.shape[0])
    model.out.register_forward_pre_hook(lambda _, inputs: reads.append(inputs[0].detach()))
    for t in range(x.shape[1]):
        _, state = model.step(x[:, t], state)
    return reads, state


@pytest.mark.parametrize("top_k", [1, 3, 100])
def test_a_step_reads_the_best_entries_by_attention(top_k):
    model = small_model(top_k=top_k)
    reads, state = record_reads(model, torch.randn(2, 21, 16))
    assert len(reads) == 16, "nothing can be read before the first segment is complete"
    keys, values = state["store_keys"], state["store_values"]
    assert keys.shape == values.shape == (2, 8, 16)
    for row in range(2):
        query = model.query(state["encoded"][row, 0])  # step 20, the first of the open segment
        scores = keys[row] @ query / 4
        chosen = scores.argsort(descending=True)[:top_k]
        expected = (scores[chosen].softmax(0)[:, None] * values[row, chosen]).sum(0)
        torch.testing.assert_close(reads[-1][row, 0], expected, atol=1e-5, rtol=1e-5)


def test_the_budget_bounds_the_store():
    model = small_model(top_k=2, memory_budget=10)
    _, state = record_reads(model, torch.randn(2, 63, 16))
    assert state["store_keys"].shape == (2, 4, 16)
    assert state["segments"].tolist() == [12, 12]


def test_the_memory_loss_is_offered_once_by_training_only():
    model = small_model(memory_loss_coef=0.5)
    x = torch.randn(3, 21, 16)
    model(x)
    assert model.auxiliary_loss() is None
    model.train()
    model(x, segment_length=5)
    loss = model.auxiliary_loss()
    assert loss.requires_grad
    assert loss > 0
    assert model.auxiliary_loss() is None
    model.memory_loss_coef = 1.0
    model(x, segment_length=5)
    torch.testing.assert_close(model.auxiliary_loss(), 2 * loss)
    model(x[:, :5], segment_length=5)
    assert model.auxiliary_loss() is None, "no segment was complete before the row ended"


def test_the_memory_loss_teaches_summaries_what_was_in_their_segment():
    model = small_model(memory_loss_coef=1.0).train()
    parts = [model.decoder, model.summary_layer]
    parameters = [model.summary_queries, *(p for part in parts for p in part.parameters())]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    codes = torch.randn(4, 16)

    def loss_on(x):
        model(x, segment_length=5)
        return model.auxiliary_loss()

    def batch():  # steps within a segment are alike and segments differ, so there is something to remember
        return codes[torch.randint(4, (16, 3))].repeat_interleave(5, dim=1)

    first = loss_on(batch()).item()
    for _ in range(150):
        loss = loss_on(batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * first

    with torch.no_grad():
        x = batch()
        encoded = model.transformer(x[:, :5], torch.arange(5), SequenceContext(model.transformer.sinks()))
        summary, _ = model._summarise(encoded)
        error = (model.decoder(summary, 5) - encoded).square().mean((1, 2))
        swapped = (model.decoder(summary.roll(1, 0), 5) - encoded).square().mean((1, 2))
    differs = (x[:, 0] != x.roll(1, 0)[:, 0]).any(-1)
    assert (error < swapped)[differs].all(), "a segment is told apart by its own summary"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 0}, "top_k=0: must be at least 1"),
        ({"top_k": 5, "memory_budget": 10}, "top_k=5: must be at most 4.*memory_budget=10"),
        ({"memory_budget": 6}, "memory_budget=6: must be at least 7"),
        ({"memory_loss_coef": -1.0}, "memory_loss_coef=-1.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        small_model(**change)


def test_more_entries_than_a_trial_can_fill_are_refused():
    model = RetrievalMemory(**MEMO_SIZES, top_k=6)
    model.check_trial_length(15)
    with pytest.raises(ValueError, match="top_k=6: must be at most 4, the summary tokens of 14 steps"):
        model.check_trial_length(14)


def test_a_budget_too_small_for_top_k_is_refused_when_set_later():
    model = small_model(top_k=6)
    with pytest.raises(ValueError, match="top_k=6"):
        model.memory_budget = 10
    model.memory_budget = 11
    assert model.max_summaries == 3
