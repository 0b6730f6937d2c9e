"""Models in these tests have large weights, so that the memory's contents affect the outputs.

Their caches have small blocks, so that even short caches have several.
"""

import pytest
import torch

from memo_lightning.construct import accepted
from memo_lightning.models import load_official_state_dict


@pytest.fixture(autouse=True)
def _large_weights(monkeypatch):
    monkeypatch.setattr("memo_lightning.models.projection._INIT_STD", 0.15)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr("memo_lightning.models.cache_blocks.BLOCK_SIZE", 7)


@pytest.fixture
def official_model():
    """Build the model behind the official numbers: ``official_model(model_class, official)``, in float64."""

    def build(model_class, official, **settings):
        sizes = ("d_model", "n_layers", "n_heads", "d_ff", "segment_length", "summary_length", "position_offset")
        names = accepted(model_class, dict.fromkeys([*sizes, "rope_base", "norm_eps"]))
        model = model_class(**{name: official.config[name] for name in names}, **settings).double().eval()
        load_official_state_dict(model, official.params)
        return model

    return build


@pytest.fixture
def check_official_gradients(official_model):
    """Compare outputs and all gradients of ``forward`` with the official ones."""

    def check(model_class, official, tolerance=1e-5, **settings):
        model = official_model(model_class, official, **settings)
        x = official.x.requires_grad_()
        y = model(x)
        torch.testing.assert_close(y, official.y, atol=1e-5, rtol=1e-5)
        (y * official.loss_weight).sum().backward()
        torch.testing.assert_close(x.grad, official.grad_x, atol=1e-5, rtol=1e-5)

        ours = {name: p.grad for name, p in model.named_parameters()}
        reference = official_model(model_class, official, **settings)
        load_official_state_dict(reference, official.grads)  # the official gradients, under our names
        for name, theirs in reference.named_parameters():
            scale = theirs.detach().abs().max()  # gradients here are sums over all steps, as large as 20
            torch.testing.assert_close(ours[name] / scale, theirs.detach() / scale, atol=tolerance, rtol=0)

    return check
