"""LSTM and GRU equal torch's own cells, with resets at any step."""

import pytest
import torch

from memo_lightning.models import GRU, LSTM


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_resets_equal_running_every_trial_by_itself(kind):
    torch.manual_seed(0)
    model = kind(d_model=8, n_layers=2)
    x = torch.randn(5, 40, 8, requires_grad=True)
    is_init = torch.rand(5, 40) < 0.15
    weight = torch.randn(5, 40, 8)
    rows = []
    for row in range(5):
        starts = sorted({0, *is_init[row].nonzero().squeeze(1).tolist()})
        trials = zip(starts, [*starts[1:], 40], strict=True)
        rows.append(torch.cat([model.rnn(x[row : row + 1, start:end])[0] for start, end in trials], dim=1))
    expected = torch.cat(rows)
    y = model(x, is_init)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-5)
    gradients = torch.autograd.grad((y * weight).sum(), [x, *model.parameters()])
    expected_gradients = torch.autograd.grad((expected * weight).sum(), [x, *model.parameters()])
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-5, rtol=1e-5)


def test_the_state_has_a_fixed_size():
    model = LSTM(d_model=8, n_layers=2)
    state = model.init_state(3)
    before = model.state_nbytes(state)
    for _ in range(20):
        _, state = model.step(torch.randn(3, 8), state)
    assert model.state_nbytes(state) == before == 2 * 3 * 2 * 8 * 4


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_a_state_of_other_sizes_is_refused(kind):
    model = kind(d_model=8, n_layers=2)
    with pytest.raises(ValueError, match=r"\(layers, width\) \(3, 8\), must be \(2, 8\)"):
        model.step(torch.randn(4, 8), kind(d_model=8, n_layers=3).init_state(4))
    with pytest.raises(ValueError, match="n_layers=0"):
        kind(d_model=8, n_layers=0)


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_autocast_on_the_cpu_leaves_the_cells_in_full_precision(kind):
    """Not every CPU supports an LSTM in bfloat16, and a checkpoint must act the same on all."""
    torch.manual_seed(0)
    model = kind(d_model=8, n_layers=2)
    x = torch.randn(3, 20, 8, dtype=torch.bfloat16)  # as the preceding modules produce it
    is_init = torch.rand(3, 20) < 0.2
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x, is_init)
        y_0, _ = model.step(x[:, 0], model.init_state(3))
    torch.testing.assert_close(y, model(x.float(), is_init), atol=0, rtol=0)
    torch.testing.assert_close(y_0, y[:, 0])


@pytest.mark.cuda
@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_cudnn_computes_gradients_also_in_evaluation_mode(kind):
    model = kind(d_model=8, n_layers=2).eval()
    x = torch.randn(2, 5, 8)
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    found = torch.autograd.grad(model.cuda()(x.cuda()).square().sum(), list(model.parameters()))
    for of_card, of_cpu in zip(found, expected, strict=True):
        torch.testing.assert_close(of_card.cpu(), of_cpu, atol=1e-4, rtol=1e-4)
