"""RMSNorm and its gradients equal torch's."""

import torch

from memo_lightning.models.rms_norm import RMSNorm


def test_outputs_and_gradients_equal_torch():
    torch.manual_seed(0)
    norm = RMSNorm(16, eps=1e-3).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 7, 16, dtype=torch.float64, requires_grad=True)
    inputs = (x, norm.weight)
    expected = torch.nn.functional.rms_norm(x, (16,), norm.weight, 1e-3)
    upstream = torch.randn_like(x)
    torch.testing.assert_close(norm(x), expected)
    gradients = torch.autograd.grad(norm(x), inputs, upstream)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, inputs, upstream))
