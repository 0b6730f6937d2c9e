"""Recurrent Memory Transformer: training equals the official forward pass, and acting equals training."""

import pytest
import torch

from memo_lightning.models import MemoTransformer, RecurrentMemoryTransformer


@pytest.fixture
def official(parity):
    return parity("rmt")


def small_model(segment_length=5, summary_length=2):
    torch.manual_seed(0)
    model = RecurrentMemoryTransformer(
        d_model=16,
        n_layers=2,
        n_heads=2,
        d_ff=32,
        segment_length=segment_length,
        summary_length=summary_length,
    )
    torch.nn.init.normal_(model.summary_queries)
    return model.eval()


def test_outputs_and_gradients_equal_the_official_model(official, check_official_gradients):
    check_official_gradients(RecurrentMemoryTransformer, official)


def test_acting_equals_the_official_training(official, official_model):
    model = official_model(RecurrentMemoryTransformer, official)
    state = model.init_state(official.x.shape[0])
    for t in range(official.x.shape[1]):
        y, state = model.step(official.x[:, t], state)
        torch.testing.assert_close(y, official.y[:, t], atol=1e-5, rtol=1e-5)


def test_the_memory_stays_the_same_size():
    model = small_model()
    state, sizes = model.init_state(2), []
    for _ in range(60):
        _, state = model.step(torch.randn(2, 16), state)
        sizes.append(model.state_nbytes(state))
    assert len(set(sizes[10:])) == 1
    assert state["length"].tolist() == [2, 2]


def test_equal_total_memory_is_what_memo_holds_at_the_end_of_the_trial():
    length = RecurrentMemoryTransformer.summary_length_of_equal_memory(
        trial_length=47, segment_length=5, summary_length=2
    )
    model = small_model(summary_length=length)
    memo = MemoTransformer(d_model=16, n_layers=2, n_heads=2, d_ff=32, segment_length=5, summary_length=2)
    states = model.init_state(1), memo.init_state(1)
    for _ in range(47):
        x_t = torch.randn(1, 16)
        model.step(x_t, states[0])
        memo.step(x_t, states[1])
    assert states[0]["length"].tolist() == states[1]["length"].tolist() == [18 + 2]
    with pytest.raises(ValueError, match="equal_memory_at=4: must be at least segment_length=5"):
        RecurrentMemoryTransformer.summary_length_of_equal_memory(4, 5, 2)
