"""LayerDrop of all transformers: a training pass without some layers equals one of a model that never had them."""

import copy

import pytest
import torch

from memo_lightning.models import (
    DirectKVTransformer,
    FullContextTransformer,
    MemoTransformer,
    RecurrentMemoryTransformer,
    RetrievalMemory,
)

D = 16
STACK = {"d_model": D, "n_layers": 4, "n_heads": 2, "d_ff": 32, "layer_drop": 0.5}
SEGMENTS = {"segment_length": 5, "summary_length": 2, "segment_jitter": 0.0}

MODELS = {
    "memo": lambda: MemoTransformer(**STACK, **SEGMENTS),
    "memo, sink": lambda: MemoTransformer(**STACK, **SEGMENTS, sink_kv=True),
    "memo, checkpointed": lambda: MemoTransformer(**STACK, **SEGMENTS, checkpoint_segments=True),
    "memo, streaming": lambda: MemoTransformer(**STACK, **SEGMENTS, memory_budget=9),
    "autocompressor": lambda: MemoTransformer(**STACK, **SEGMENTS, gradient_segments=2),
    "direct_kv": lambda: DirectKVTransformer(**STACK, **SEGMENTS),
    "rmt": lambda: RecurrentMemoryTransformer(**STACK, **SEGMENTS),
    "full_context": lambda: FullContextTransformer(**STACK, sink_kv=True),
    "retrieval": lambda: RetrievalMemory(**STACK, **SEGMENTS, top_k=3),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    model = MODELS[request.param]().double().train()
    for name, parameter in model.named_parameters():
        if "summary_queries" in name or "sink" in name:
            torch.nn.init.normal_(parameter)  # large enough to matter
    return model


@pytest.fixture
def rows():
    torch.manual_seed(1)
    return torch.randn(3, 33, D, dtype=torch.float64), torch.rand(3, 33) < 0.1


def without_layers(model, dropped):
    """Return a copy with layers removed by hand."""
    thin = copy.deepcopy(model).eval()
    thin.transformer.blocks = torch.nn.ModuleList(
        block for layer, block in enumerate(thin.transformer.blocks) if layer not in dropped
    )
    return thin


def gradients_of(model, y):
    model.zero_grad()
    torch.manual_seed(2)
    (y * torch.randn_like(y)).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("dropped", [(0,), (1, 3), (0, 1, 2)])
def test_a_pass_without_layers_is_one_of_a_model_that_lacks_them(model, rows, dropped):
    thin = without_layers(model, dropped)
    y, expected = model(*rows, dropped_layers=dropped), thin(*rows)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    assert not torch.allclose(y, model(*rows, dropped_layers=()))

    gradients, of_thin = gradients_of(model, y), gradients_of(thin, expected)
    kept = [layer for layer in range(4) if layer not in dropped]
    for place, layer in enumerate(kept):
        for name, _ in model.transformer.blocks[layer].named_parameters():
            gradient = gradients[f"transformer.blocks.{layer}.{name}"]
            torch.testing.assert_close(gradient, of_thin[f"transformer.blocks.{place}.{name}"])
    for layer in dropped:
        of_layer = [g for name, g in gradients.items() if name.startswith(f"transformer.blocks.{layer}.")]
        assert all(gradient is None for gradient in of_layer)


def test_acting_and_evaluation_run_all_layers(model, rows):
    x, is_init = rows
    expected = copy.deepcopy(model).eval()(x, is_init)
    with torch.no_grad():
        state, steps = model.init_state(3), []
        for t in range(x.shape[1]):
            y, state = model.step(x[:, t], state, is_init[:, t])
            steps.append(y)
        torch.testing.assert_close(torch.stack(steps, 1), expected)
        torch.testing.assert_close(model.prefill(x, is_init)[0], expected)
        torch.testing.assert_close(model(x, is_init, **model.acting_pass()), expected)


def test_training_passes_draw_the_layers_they_skip(model, rows):
    outputs = [model(*rows) for _ in range(12)]
    assert len({y.sum().item() for y in outputs}) > 2
    torch.manual_seed(3)
    y = model(*rows)
    torch.manual_seed(3)
    model.draw_segment_length()
    settings = {"segment_length": model.segment_length, "dropped_layers": model.transformer.draw_dropped_layers()}
    torch.testing.assert_close(y, model(*rows, **settings), rtol=0, atol=0)


def test_layers_are_drawn_with_the_probability_given_and_never_all_of_them():
    transformer = MemoTransformer(**{**STACK, "layer_drop": 0.3}, **SEGMENTS).transformer
    generator = torch.Generator().manual_seed(0)
    drawn = [transformer.draw_dropped_layers(generator) for _ in range(4000)]
    assert all(len(dropped) < 4 for dropped in drawn)
    share = torch.tensor([[layer in dropped for layer in range(4)] for dropped in drawn]).double().mean(0)
    expected = (0.3 - 0.3**4) / (1 - 0.3**4)
    assert (share - expected).abs().max() < 0.03
    generator.manual_seed(0)
    assert [transformer.draw_dropped_layers(generator) for _ in range(4000)] == drawn


def test_segment_lengths_are_drawn_as_without_layer_drop():
    lengths = []
    for layer_drop in (0.0, 0.5):
        model = MemoTransformer(**{**STACK, "layer_drop": layer_drop}, segment_length=40, summary_length=2)
        lengths.append(model.draw_pass(torch.Generator().manual_seed(5))["segment_length"])
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize("layer_drop", [-0.1, 1.0])
def test_what_is_no_probability_is_refused(layer_drop):
    with pytest.raises(ValueError, match=f"layer_drop={layer_drop}: must be at least 0 and below 1"):
        MemoTransformer(**{**STACK, "layer_drop": layer_drop}, **SEGMENTS)
