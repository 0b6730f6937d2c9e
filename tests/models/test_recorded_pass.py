"""Recorded training passes: what is recorded when, and that the results are those of passes that are not."""

import copy

import pytest
import torch

from memo_lightning.models import (
    LSTM,
    DirectKVTransformer,
    FullContextTransformer,
    MemoTransformer,
    RecurrentMemoryTransformer,
    RetrievalMemory,
)
from memo_lightning.models.recorded_pass import CUDARecorder, RecordedPasses

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32, "segment_length": 10, "summary_length": 2}


class Tape:
    """Records nothing, but notes what it was asked to record and what was replayed."""

    def __init__(self, room=True):
        self.room, self.recorded, self.replayed = room, [], []

    def __call__(self, model, x, settings):
        name = (tuple(x.shape), settings["segment_length"])
        self.recorded.append(name)

        def replay(x):
            self.replayed.append(name)
            return model(x, None, **settings)

        return replay if self.room else None


def passes(n_kept=8, room=True, **changes):
    torch.manual_seed(0)
    tape = Tape(room)
    model = MemoTransformer(**{**SIZES, **changes}).train()
    return RecordedPasses(model, tape, n_kept), tape, model


def test_a_pass_is_recorded_at_second_sight_and_equals_the_model():
    read, tape, model = passes()
    x = torch.randn(3, 34, 16, requires_grad=True)
    for n_recorded, n_replayed in ((0, 0), (1, 1), (1, 2)):
        y = read(x, torch.zeros(3, 34, dtype=torch.bool), 9)
        expected = model(x, None, 9)
        assert torch.equal(y, expected)
        ours, theirs = (torch.autograd.grad(out.square().sum(), [x, *model.parameters()]) for out in (y, expected))
        assert all(map(torch.equal, ours, theirs))
        assert (len(tape.recorded), len(tape.replayed)) == (n_recorded, n_replayed)


@pytest.mark.parametrize(
    "change",
    [
        lambda model, x: (x[:2], 9),
        lambda model, x: (x[:, :30], 9),
        lambda model, x: (x.double().float().requires_grad_(), 9),
        lambda model, x: (x, 8),
        lambda model, x: (x, 9) if model.eval() else None,
        lambda model, x: (x, 9) if model.requires_grad_(False) else None,
        lambda model, x: (x, 9) if setattr(model, "memory_budget", 14) is None else None,
    ],
    ids=["sequences", "steps", "gradient of inputs", "segment length", "mode", "frozen weights", "budget"],
)
@torch.no_grad()
def test_whatever_changes_the_launches_is_another_pass(change):
    read, tape, model = passes()
    x = torch.randn(3, 34, 16)
    read(x, None, 9)
    x, length = change(model, x)
    read(x, None, length)
    assert not tape.recorded
    read(x, None, length)
    assert tape.recorded == [(tuple(x.shape), length)]


def test_gradients_and_autocast_make_another_pass():
    read, tape, _ = passes()
    x = torch.randn(3, 34, 16)
    read(x, None, 9)
    with torch.no_grad():
        read(x, None, 9)
        with torch.autocast("cpu", torch.bfloat16):
            read(x, None, 9)
    assert not tape.recorded


def test_weights_that_have_moved_are_recorded_again():
    read, tape, model = passes()
    x = torch.randn(3, 34, 16)
    with torch.no_grad():
        for _ in range(2):
            read(x, None, 9)
        model.double().float()
        read(x, None, 9)
    assert (len(tape.recorded), len(tape.replayed)) == (1, 1)


@torch.no_grad()
def test_the_recording_that_was_used_last_is_kept():
    read, tape, _ = passes(n_kept=2)
    x = torch.randn(3, 34, 16)
    for length in (7, 7, 8, 8, 7, 9, 9):  # 9 replaces 8
        read(x, None, length)
    tape.replayed.clear()
    for length in (7, 9):
        read(x, None, length)
    assert [length for _, length in tape.replayed] == [7, 9]
    assert [length for _, length in tape.recorded] == [7, 8, 9]
    read(x, None, 8)
    assert [length for _, length in tape.recorded] == [7, 8, 9, 8]


@torch.no_grad()
def test_what_does_not_fit_in_memory_is_tried_once():
    read, tape, model = passes(room=False)
    x = torch.randn(3, 34, 16)
    for _ in range(4):
        assert torch.equal(read(x, None, 9), model(x, None, 9))
    assert len(tape.recorded) == 1


@torch.no_grad()
def test_sequences_that_begin_a_trial_midway_are_not_recorded():
    read, tape, model = passes()
    x, is_init = torch.randn(3, 34, 16), torch.zeros(3, 34, dtype=torch.bool)
    is_init[1, 5] = True
    for _ in range(3):
        assert torch.equal(read(x, is_init, 9), model(x, is_init, 9))
    assert not tape.recorded


def test_a_recording_is_not_replayed_before_the_backward_pass_of_the_last():
    """It would overwrite what the backward pass needs."""
    read, tape, _ = passes()
    x = torch.randn(3, 34, 16)
    for _ in range(2):
        read(x, None, 9)
    assert len(tape.replayed) == 1, "the graph of the first replay is gone"
    loss = read(x, None, 9).square().sum()
    read(x, None, 9)
    assert len(tape.replayed) == 2
    loss.backward()
    read(x, None, 9)
    assert len(tape.replayed) == 3


def test_inputs_that_are_not_finite_are_refused_in_a_replay_too():
    read, _, _ = passes()
    x = torch.randn(3, 34, 16)
    for _ in range(2):
        read(x, None, 9)
    x[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="must be finite"):
        read(x, None, 9)


def test_jitter_draws_few_lengths_that_cover_the_range_with_the_same_mean():
    _, _, model = passes(segment_length=50)
    drawn = [model.draw_pass()["segment_length"] for _ in range(300)]
    assert set(drawn) == {40, 45, 50, 55, 60}
    assert sum(set(drawn)) / 5 == 50
    model.n_drawn_lengths = None
    assert len({model.draw_segment_length() for _ in range(300)}) > 15
    _, _, model = passes(segment_length=10, segment_jitter=0.1)
    assert {model.draw_segment_length() for _ in range(100)} == {9, 10, 11}


def test_which_memories_can_be_recorded():
    sizes = {name: value for name, value in SIZES.items() if "length" not in name}
    recordable = {
        kind.__name__: kind(**SIZES).is_recordable
        for kind in (MemoTransformer, DirectKVTransformer, RecurrentMemoryTransformer, RetrievalMemory)
    }
    assert recordable.pop("RetrievalMemory") is False
    assert all(recordable.values())
    for model in (
        MemoTransformer(**SIZES, checkpoint_segments=True),
        MemoTransformer(**SIZES, layer_drop=0.1),
        FullContextTransformer(**sizes),
        LSTM(16, 2),
    ):
        with pytest.raises(ValueError, match=f"{type(model).__name__}: its passes cannot be recorded"):
            RecordedPasses(model)


def _train(read, model, x, n_steps, precision):
    """Return the outputs, gradients and weights of some steps of Adam, over segments of two lengths."""
    optimizer, found = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for step in range(n_steps):
        optimizer.zero_grad()
        with torch.autocast("cuda", precision or torch.bfloat16, enabled=precision is not None):
            y = read(x[step], None, 9 + step % 2)
        y.float().square().mean().backward()
        gradients = [None if weight.grad is None else weight.grad.clone() for weight in model.parameters()]
        optimizer.step()
        found.append([y.detach().clone(), *gradients, *(weight.detach().clone() for weight in model.parameters())])
    return found


@pytest.mark.cuda
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("kind", [MemoTransformer, DirectKVTransformer, RecurrentMemoryTransformer])
def test_training_with_graphs_on_a_card_equals_training_without(kind, precision):
    torch.manual_seed(0)
    model = kind(**SIZES).cuda().train()
    recorded_model = copy.deepcopy(model)
    n_recorded = []

    class Recorder(CUDARecorder):
        def __call__(self, model, x, settings):
            n_recorded.append(settings["segment_length"])
            recording = super().__call__(model, x, settings)
            assert recording is not None
            return recording

    x = torch.randn(8, 3, 34, 16, device="cuda")
    expected = _train(lambda x, is_init, length: model(x, is_init, length), model, x, 8, precision)
    found = _train(RecordedPasses(recorded_model, Recorder()), recorded_model, x, 8, precision)
    assert n_recorded == [9, 10]
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one is other is None or torch.equal(one, other)


class Greedy(MemoTransformer):
    """Asks for more memory than there is while it is recorded."""

    def read_trials(self, x, *arguments):
        if torch.cuda.is_current_stream_capturing():
            torch.empty(2**44, dtype=torch.uint8, device=x.device)
        return super().read_trials(x, *arguments)


@pytest.mark.cuda
def test_a_recording_that_runs_out_of_memory_leaves_the_card_as_it_was():
    model = Greedy(**SIZES).cuda().train()
    read, x = RecordedPasses(model), torch.randn(3, 34, 16, device="cuda")
    stream, outputs = torch.cuda.current_stream(), []
    for _ in range(3):
        outputs.append(read(x, None, 9))
        outputs[-1].square().sum().backward()
        model.zero_grad()
        assert torch.cuda.current_stream() == stream
        assert not torch.cuda.is_current_stream_capturing()
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    modest = MemoTransformer(**SIZES).cuda().train()
    assert CUDARecorder()(modest, x, {"segment_length": 9}) is not None, "others can still be recorded"
