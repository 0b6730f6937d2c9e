"""Memo equals the official implementation, and acting equals training."""

import statistics
import subprocess
import sys
import time

import pytest
import torch

from memo_lightning.benchmarks.reencoding import forward_with_reencoding
from memo_lightning.models import MemoTransformer
from stepping import step_through
from tiny import MEMO_SIZES


@pytest.fixture
def official(parity):
    return parity("memo")


def small_model(segment_length=5, summary_length=2, **settings):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32}
    model = MemoTransformer(**sizes, segment_length=segment_length, summary_length=summary_length, **settings)
    torch.nn.init.normal_(model.summary_queries)  # large enough that the summaries matter
    return model.eval()


def test_outputs_and_gradients_equal_the_official_model(official, check_official_gradients):
    check_official_gradients(MemoTransformer, official)


def test_steps_equal_the_official_model_acting(official, official_model):
    y, _ = step_through(official_model(MemoTransformer, official), official.x)
    torch.testing.assert_close(y, official.y_step, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("segment_length", [1, 4, 5, 40])
def test_forward_equals_stepping_with_staggered_resets(segment_length):
    model = small_model(segment_length, summary_length=min(2, segment_length))
    x = torch.randn(6, 33, 16)
    is_init = torch.zeros(6, 33, dtype=torch.bool)
    for row, starts in enumerate([[0], [0, 7], [0, 1, 2, 20], [0, 32], [0, 10, 15, 20], [0, 16]]):
        is_init[row, starts] = True
    stepped, _ = step_through(model, x, is_init)
    torch.testing.assert_close(model(x, is_init), stepped, atol=1e-5, rtol=1e-5)


def test_a_trial_is_blind_to_the_trial_before_it():
    model = small_model()
    x = torch.randn(2, 30, 16)
    is_init = torch.zeros(2, 30, dtype=torch.bool)
    is_init[0, 13], is_init[1, 21] = True, True
    y = model(x, is_init)
    torch.testing.assert_close(y[:1, 13:], model(x[:1, 13:]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(y[1:, 21:], model(x[1:, 21:]), atol=1e-6, rtol=1e-5)


def test_later_steps_see_old_segments_only_through_their_summary():
    model = small_model()
    x = torch.randn(1, 15, 16, requires_grad=True)
    model(x)[0, 12].sum().backward()
    assert x.grad[0, 2].abs().sum() > 0, "the first segment reaches step 12 through its summary"
    assert x.grad[0, 13:].abs().sum() == 0, "nothing comes from the future"


def test_the_summary_is_the_only_way_to_an_old_segment():
    model = small_model()
    x = torch.randn(1, 15, 16)
    changed = x.clone()
    changed[0, 2] += 1
    assert not torch.allclose(model(x)[0, 10:], model(changed)[0, 10:])
    with torch.no_grad():
        model.transformer.norm.weight.zero_()  # now summaries are zero, whatever they read
    normed_input = []
    model.transformer.norm.register_forward_pre_hook(lambda _module, inputs: normed_input.append(inputs[0]))
    model(x)
    model(changed)
    first, second = normed_input[:3], normed_input[3:]
    assert not torch.equal(first[0], second[0]), "the first segment itself differs"
    assert torch.equal(first[2][:, 2:], second[2][:, 2:]), "the third segment cannot tell"


def gradients_of(y, model, x, weight):
    return torch.autograd.grad((y * weight).sum(), [x, *model.parameters()])


@pytest.mark.parametrize("settings", [{}, {"sink_kv": True}, {"checkpoint_segments": True}])
def test_reuse_equals_encoding_all_summaries_again_in_every_segment(settings):
    model = small_model(**settings).double()
    x = torch.randn(2, 43, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    y, expected = model(x), forward_with_reencoding(model, x, segment_length=5)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(
        gradients_of(y, model, x, weight), gradients_of(expected, model, x, weight), atol=1e-9, rtol=1e-6
    )


@pytest.mark.parametrize("gradient_segments", [0, 1, 2, 100])
def test_truncated_gradients_equal_detaching_older_summaries(gradient_segments):
    model = small_model(gradient_segments=gradient_segments).double()
    full = small_model().double()
    x = torch.randn(2, 43, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    y, expected = model(x), forward_with_reencoding(model, x, 5, gradient_segments)
    torch.testing.assert_close(y, full(x))
    gradients = gradients_of(y, model, x, weight)
    torch.testing.assert_close(gradients, gradients_of(expected, model, x, weight), atol=1e-9, rtol=1e-6)
    untruncated = gradients_of(full(x), full, x, weight)
    is_same = torch.allclose(gradients[0], untruncated[0])
    assert is_same == (gradient_segments == 100)


def test_checkpointing_changes_no_result_with_staggered_resets():
    is_init = torch.rand(3, 43) < 0.1
    x = torch.randn(3, 43, 16, requires_grad=True)
    weight = torch.randn_like(x)
    results = []
    for checkpoint_segments in (False, True):
        model = small_model(checkpoint_segments=checkpoint_segments)
        results.append(gradients_of(model(x, is_init), model, x, weight))
    torch.testing.assert_close(results[0], results[1])


def test_streaming_keeps_whole_summaries_within_the_budget():
    model, unlimited = small_model(memory_budget=11), small_model()  # 5 steps and three summaries of 2
    x = torch.randn(1, 60, 16)
    state, lengths = model.init_state(1), []
    for t in range(60):
        _, state = model.step(x[:, t], state)
        lengths.append(int(state["length"]))
    assert max(lengths) == 3 * 2 + 4
    assert lengths[-1] == 3 * 2
    y, reference = model(x), unlimited(x)
    torch.testing.assert_close(y[:, :20], reference[:, :20])
    assert ((y - reference)[:, 20:].abs().amax(-1) > 1e-5).all(), "with a fourth summary the first is dropped"


def test_a_budget_that_drops_nothing_changes_nothing():
    x = torch.randn(2, 60, 16)
    torch.testing.assert_close(small_model(memory_budget=5 + 2 * 12)(x), small_model()(x))


def test_a_budget_can_be_set_later():
    model = small_model()
    x = torch.randn(1, 40, 16)
    _, state = step_through(model, x)
    assert state["length"].tolist() == [16]
    model.memory_budget = 9
    torch.testing.assert_close(model(x), step_through(model, x)[0], atol=1e-5, rtol=1e-5)
    for t in range(5):
        _, state = model.step(x[:, t], state)
    assert state["length"].tolist() == [4], "a longer memory shrinks at the next boundary"
    for budget in (6, -1):
        with pytest.raises(ValueError, match=rf"memory_budget={budget}: must be at least 7.*length=5.*length=2"):
            model.memory_budget = budget
    assert model.memory_budget == 9


def test_truncated_gradients_within_a_budget_are_refused_in_training_only():
    model = small_model(gradient_segments=2, memory_budget=9)
    x = torch.randn(2, 40, 16)
    with pytest.raises(ValueError, match=r"gradient_segments=2 and memory_budget=9"):
        model(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), step_through(model, x)[0], atol=1e-5, rtol=1e-5)


def test_positions_in_the_millions_lose_nothing():
    model = small_model(memory_budget=11)
    x = torch.randn(2, 40, 16)
    state = model.init_state(2)
    state["segments"] += 4_000_000
    for t in range(40):
        y, state = model.step(x[:, t], state)
        torch.testing.assert_close(y, model(x)[:, t], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_streaming_costs_the_same_for_ever():
    model = small_model(segment_length=16, summary_length=4, memory_budget=64)
    x = torch.randn(4, 16)

    def grow_old(n_steps):
        state, sizes = model.init_state(4), []
        for t in range(n_steps):
            _, state = model.step(x, state, torch.arange(4) * 3 == t)  # boundaries on different steps
            sizes.append(model.state_nbytes(state))
        return state, sizes

    def seconds(state):
        start = time.process_time()
        for _ in range(50):
            model.step(x, state)
        return time.process_time() - start

    (young, _), (old, sizes) = grow_old(500), grow_old(2_500)
    assert set(sizes[500:]) == {sizes[-1]}
    # Alternate the two, so that other load on the machine slows down both.
    turns = [(seconds(young), seconds(old)) for _ in range(20)]
    of_young, of_old = (statistics.median(times) for times in zip(*turns, strict=True))
    assert of_old < 1.2 * of_young


PEAK_MEMORY = """
import torch
from memo_lightning.benchmarks.timing import PeakMemory
from memo_lightning.models import MemoTransformer
torch.manual_seed(0)
sizes = dict(d_model=64, n_layers=4, n_heads=8, d_ff=256, segment_length=256, summary_length=32)
model = MemoTransformer(**sizes, checkpoint_segments={checkpoint})
model(torch.randn(1, 512, 64), segment_length=256).sum().backward()
peak = PeakMemory(torch.device("cpu"))
model(torch.randn(1, 8192, 64), segment_length=256).sum().backward()
print(peak.read())
"""


@pytest.mark.slow
def test_checkpointing_takes_less_than_two_fifths_of_the_memory():
    peaks = {}
    for checkpoint in (False, True):
        script = PEAK_MEMORY.format(checkpoint=checkpoint)
        peaks[checkpoint] = int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout)
    assert peaks[True] < 0.4 * peaks[False]


def test_jitter_is_drawn_in_training_only():
    model = small_model(segment_length=10)
    x = torch.randn(1, 40, 16)
    assert torch.equal(model(x), model(x, segment_length=10))
    model.train()
    assert {model.draw_segment_length() for _ in range(200)} == {8, 9, 10, 11, 12}
    assert torch.equal(model(x, segment_length=7), model(x, segment_length=7))


def test_jitter_can_be_one_sided():
    model = small_model(segment_length=8, segment_jitter=(0.0, 0.25)).train()
    assert {model.draw_segment_length() for _ in range(200)} == {8, 9, 10}


def test_memory_is_one_summary_per_segment_and_the_open_segment():
    model = small_model(segment_length=10, summary_length=2)
    x = torch.randn(3, 205, 16)
    _, state = step_through(model, x)
    assert state["length"].tolist() == [20 * 2 + 5] * 3
    tokens_held = 20 * 2 + 10 + 2  # all summaries, a full segment, and room for the queries
    per_token = 2 * 2 * 16 * 4  # keys and values, layers, width, float32
    assert model.state_nbytes(state) <= 3 * (tokens_held + 2) * per_token + 3 * 7 * 8  # counters and model_id


@pytest.mark.cuda
def test_cuda_matches_cpu():
    model = small_model()
    x = torch.randn(4, 33, 16)
    expected = model(x)
    model.cuda()
    torch.testing.assert_close(model(x.cuda()).cpu(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(step_through(model, x.cuda())[0].cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"summary_length": 6}, r"summary_length=6.*segment_length=5"),
        ({"n_heads": 3}, r"d_model=16.*n_heads=3"),
        ({"segment_length": 0}, r"segment_length=0"),
        ({"n_layers": 0}, r"n_layers=0"),
        ({"segment_jitter": 1.5}, r"segment_jitter=1.5"),
        ({"segment_jitter": (0.0, -0.1)}, r"segment_jitter=\(0.0, -0.1\)"),
        ({"segment_jitter": (0.1,)}, r"segment_jitter=\(0.1,\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MemoTransformer(**{**MEMO_SIZES, **change})


def test_wrong_states_and_inputs_are_refused():
    model = small_model()
    x = torch.randn(3, 16)
    with pytest.raises(ValueError, match=r"batch size \(2,\).*\(3,\)"):
        model.step(x, model.init_state(2))
    other = MemoTransformer(d_model=16, n_layers=3, n_heads=2, d_ff=32, segment_length=5, summary_length=2)
    with pytest.raises(ValueError, match="another model"):
        model.step(x, other.init_state(3))
    other = small_model(segment_length=6)
    with pytest.raises(ValueError, match=r"\(6, 2\), must be \(5, 2\)"):
        model.step(x, other.init_state(3))
    x[1, 4] = float("nan")
    with pytest.raises(ValueError, match=r"nan at index \[1, 4\]"):
        model.step(x, model.init_state(3))
    with pytest.raises(ValueError, match=r"must be \[B, T, D\]"):
        model(x)
    with pytest.raises(ValueError, match="is_init"):
        model(torch.randn(3, 4, 16), torch.zeros(3, 4))
