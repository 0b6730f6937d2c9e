"""Recurrent Memory Transformer: equal to the official training forward, and acting equal to it."""

import pytest
import torch

from memo_lightning.models import MemoTransformer, RecurrentMemoryTransformer, load_official_state_dict


@pytest.fixture
def official(parity):
    return parity("rmt")


def official_model(official):
    names = (
        "d_model",
        "n_layers",
        "n_heads",
        "d_ff",
        "segment_length",
        "summary_length",
        "rope_base",
        "norm_eps",
    )
    model = RecurrentMemoryTransformer(**{name: official.config[name] for name in names}).double().eval()
    load_official_state_dict(model, official.params)
    return model


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


def test_outputs_and_gradients_equal_the_official_model(official):
    model = official_model(official)
    x = official.x.requires_grad_()
    y = model(x)
    torch.testing.assert_close(y, official.y, atol=1e-5, rtol=1e-5)
    (y * official.loss_weight).sum().backward()
    torch.testing.assert_close(x.grad, official.grad_x, atol=1e-5, rtol=1e-5)

    ours = {name: p.grad for name, p in model.named_parameters()}
    reference = official_model(official)
    load_official_state_dict(reference, official.grads)  # the official gradients, under our names
    for name, theirs in reference.named_parameters():
        scale = theirs.detach().abs().max()
        torch.testing.assert_close(ours[name] / scale, theirs.detach() / scale, atol=1e-5, rtol=1e-5)


def test_acting_equals_the_official_training(official):
    model = official_model(official)
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
    with pytest.raises(ValueError, match="trial_length=4: must be at least segment_length=5"):
        RecurrentMemoryTransformer.summary_length_of_equal_memory(4, 5, 2)
