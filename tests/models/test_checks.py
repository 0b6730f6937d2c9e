"""`memo check-memory` names the mistake of a memory, and training rejects mistakes that would go unnoticed."""

import inspect

import faulty_memories
import pytest
import torch

from memo_lightning.cli.main import main
from memo_lightning.models import MemoTransformer
from memo_lightning.models.checks import check_memory, steps_to_check

D = 16


def problems(memory, **settings):
    found = check_memory(lambda: getattr(faulty_memories, memory)(D), 33, **settings)
    return {finding.name: finding.problem for finding in found if finding.problem}


WRONG = [
    ("NoTensorDict", "contract", "init_state(6) returned a dict; must be a TensorDict of batch size [6]"),
    ("UndeclaredEntry", "contract", "holds count, total; must be state_names, which are total"),
    ("OnlyOutputs", "contract", "step returned a Tensor; must be the outputs [B, D] and the state"),
    ("WrongShape", "contract", "forward returned a tensor [6, 16] for inputs [6, 33, 16]"),
    ("Raises", "contract", "it raised RuntimeError: "),
    ("StepDecaysOtherwise", "steps", "at step 1 of a trial; must be equal"),
    ("StepIgnoresTrials", "steps", "at step 0 of a trial that begins at step 1 of its sequence; must be equal"),
    ("MixesTrials", "trials", "0 steps into a trial the outputs depend"),
    ("SeesTheFuture", "time", "the output of step 0 depends"),
    ("SeesItsNeighbours", "batch", "on the other sequences of its batch"),
    ("RemembersOutsideOfItsState", "state", "the state must hold everything that is remembered"),
    ("PrefillForgets", "prefill", "prefill must return the same state as step"),
    ("Detached", "gradients", "no gradient reaches gate, write.bias, write.weight;"),
    ("CoarseInHalfPrecision", "half precision", "under autocast to bfloat16 forward differs by"),
    ("LosesWeights", "weights", "with register_buffer"),
]
# Checks for mistakes that would go unnoticed in training.
ESSENTIAL = ("contract", "steps", "trials", "time")


@pytest.mark.parametrize(("memory", "check", "message"), WRONG)
def test_what_is_wrong_is_named(memory, check, message):
    assert message in problems(memory)[check]


def test_the_line_of_the_users_file_is_named():
    line = 1 + inspect.getsource(faulty_memories).splitlines().index("        return x @ x")
    assert f"(faulty_memories.py, line {line})" in problems("Raises")["contract"]


@pytest.mark.parametrize("memory", ["Right", "BranchesOnNumbers"])
def test_what_is_right_passes(memory):
    assert problems(memory) == {}


def test_what_can_be_exported_is_said():
    notes = {}
    for memory in (faulty_memories.Right, faulty_memories.BranchesOnNumbers):
        notes[memory] = next(f.note for f in check_memory(lambda m=memory: m(D), 33) if f.name == "export")
    assert notes[faulty_memories.Right] == "torch.export can trace step"
    assert "cannot trace step (faulty_memories.py, line" in notes[faulty_memories.BranchesOnNumbers]


def test_the_random_numbers_of_the_process_are_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    problems("Right")
    assert torch.equal(torch.rand(3), expected)


def test_sequences_are_long_enough_for_segments_to_matter():
    model = MemoTransformer(d_model=D, n_layers=1, n_heads=2, d_ff=16, segment_length=40, summary_length=4)
    assert steps_to_check(model, 200) == 101
    assert steps_to_check(model, 50) == 50
    assert steps_to_check(faulty_memories.Right(D), 200) == 32


@pytest.mark.parametrize("argument", ["baseline.target=faulty_memories.Right", "baseline=lstm", "model.d_model=32"])
def test_the_command_passes_what_is_right_and_says_what_to_do_next(argument, capsys):
    assert main(["check-memory", argument]) == 0
    out = capsys.readouterr().out
    assert "WRONG" not in out
    chosen = "baseline=custom " if "faulty_memories" in argument else ""
    assert out.endswith(f"next: memo train {chosen}{argument}\n")


def test_the_command_ends_with_what_is_wrong(capsys):
    assert main(["check-memory", "baseline.target=faulty_memories.MixesTrials"]) == 2
    out, err = capsys.readouterr()
    assert "WRONG  trials" in out
    assert err.splitlines()[-1] == "memo: the memory is not ready for training; fix: trials (see above)"


@pytest.mark.parametrize(("memory", "check", "message"), [case for case in WRONG if case[1] in ESSENTIAL])
def test_training_refuses_what_it_would_not_show(memory, check, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["baseline=custom", f"baseline.target=faulty_memories.{memory}", "debug=smoke", "logger=none"]
    assert main(["train", *arguments]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"memo: faulty_memories.{memory}: ")
    assert message.partition(" [6")[0] in last  # without sizes, which differ here
    assert last.endswith("to run all checks, use memo check-memory with the same settings")
    assert not (tmp_path / "runs").exists()
