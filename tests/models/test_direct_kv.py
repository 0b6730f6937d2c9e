"""Direct KV: the memory holds the queries' own keys and values, at the positions of Memo's summaries."""

import torch

from memo_lightning.models import DirectKVTransformer, MemoTransformer
from memo_lightning.models.rotary import rotate


def models():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32, "segment_length": 5, "summary_length": 2}
    model, memo = DirectKVTransformer(**sizes), MemoTransformer(**sizes)
    torch.nn.init.normal_(model.summary_queries)
    memo.load_state_dict(model.state_dict())
    return model.eval(), memo.eval()


def test_it_differs_from_memo_only_after_the_first_segment():
    model, memo = models()
    x = torch.randn(2, 20, 16)
    y, of_memo = model(x), memo(x)
    torch.testing.assert_close(y[:, :5], of_memo[:, :5], atol=1e-6, rtol=1e-5)
    assert (y[:, 5:] - of_memo[:, 5:]).abs().max() > 1e-2


def test_memory_is_the_keys_and_values_of_the_queries():
    model, _ = models()
    state = model.init_state(1)
    for _ in range(15):
        _, state = model.step(torch.randn(1, 16), state)
    # In the first layer nothing has been read yet, so the three summaries come from the same constant queries.
    attention = model.transformer.blocks[0].attention
    queries = model.transformer.blocks[0].attention_norm(model.summary_queries).repeat(3, 1)
    keys, values = attention.qkv(queries).view(6, 3, 2, 8)[:, 1:].permute(1, 2, 0, 3)  # (H, 6, d) each
    cos, sin = model.transformer.rotary(torch.arange(6), torch.float32)
    torch.testing.assert_close(state["keys", "0", "0"][0, :, :6], rotate(keys, cos, sin), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state["values", "0", "0"][0, :, :6], values, atol=1e-5, rtol=1e-5)
    first, second = state["values", "1", "0"][0, :, :6].split([2, 4], dim=1)
    assert (first - second[:, :2]).abs().max() > 1e-3, "the second layer knows what was read"


def test_there_is_no_second_pass():
    model, memo = models()
    lengths = {}
    for name, each in (("direct", model), ("memo", memo)):
        tokens = lengths.setdefault(name, [])
        each.transformer.register_forward_pre_hook(lambda _, inputs, tokens=tokens: tokens.append(inputs[0].shape[1]))
        each(torch.randn(1, 20, 16))
    assert lengths == {"direct": [7, 7, 7, 5], "memo": [7, 9, 9, 7]}
