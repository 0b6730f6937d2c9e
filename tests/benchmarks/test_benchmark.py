"""memo benchmark: its measurements, files and output."""

import json
import os
import re
import signal

import pytest
import torch

from memo_lightning.benchmarks import benchmark as benchmark_module
from memo_lightning.benchmarks.benchmark import in_fresh_process, measure, summarise
from memo_lightning.benchmarks.checks import DisagreementError, check_steps
from memo_lightning.benchmarks.plan import arms_of, plan
from memo_lightning.benchmarks.ratios import ratios
from memo_lightning.benchmarks.tables import ratio_table
from memo_lightning.benchmarks.timing import PeakMemory
from memo_lightning.cli.main import main
from memo_lightning.config import compose_config, config_dir

TINY = [
    "model.d_model=16",
    "model.n_layers=1",
    "model.n_heads=2",
    "model.d_ff=32",
    "model.segment_length=8",
    "model.summary_length=2",
    "context_lengths=[32]",
    "staggered_length=16",
    "acting_rows=3",
    "input_sets=2",
    "threads=1",
]


def cases(*overrides):
    return plan(compose_config("benchmark", [*TINY, *overrides]))


@pytest.mark.slow
def test_memories_are_measured_and_none_disagrees_with_itself():
    memories = ["memo", "memo_checkpointed", "full_context", "rmt", "retrieval", "lstm", "memoryless"]
    measured = {memory: {} for memory in memories}
    for case in cases(f"memories=[{','.join(memories)}]", "staggered=[]"):
        measured[case.memory] |= summarise(case, [measure(case)])
    for memory, metrics in measured.items():
        assert metrics["tokens_per_second"] == pytest.approx(32 / metrics["update_seconds"])
        assert 0 < metrics["step_seconds"] <= metrics["worst_step_seconds"]
        assert metrics["step_minus_forward"] < 1e-3
        assert metrics["flops_per_step"] > 0
        assert (metrics["state_bytes"] == 0) == (memory == "memoryless")
    tokens = {"full_context": 256, "memo": 8 + 3 * 2}  # capacity: a block of 256, and a segment with three summaries
    others = {"full_context": 2 * 8, "memo": 8 * 8 + 2 * 16 * 4}  # counters, and Memo's pending summary
    for memory, n_tokens in tokens.items():
        assert measured[memory]["state_bytes"] == n_tokens * 2 * 16 * 4 + others[memory]


def test_memories_take_turns_and_all_as_many(in_tmp_dir, capsys):
    command = ["benchmark", *TINY, "run_dir=out", "staggered=[]", "measures=[update]", "input_sets=3"]
    assert main([*command, "memories=[memoryless,lstm]"]) == 0
    said = re.findall(r"(\w+) at 32 steps, update, turn (\d) of 3 ", capsys.readouterr().err)
    assert said == [(memory, turn) for turn in "123" for memory in ("memoryless", "lstm")]
    metrics = json.loads((in_tmp_dir / "out" / "benchmark.json").read_text())["cases"]["update/lstm/32"]
    seconds = [turn["update_seconds"] for turn in metrics["turns"]]
    assert len(set(seconds)) == 3
    assert metrics["update_seconds"] == sorted(seconds)[1]
    assert ["update_flops" in turn for turn in metrics["turns"]] == [True, False, False]
    command = ["benchmark", *TINY, "run_dir=short", "staggered=[]", "measures=[update]", "max_seconds=0"]
    assert main([*command, "memories=[memoryless,lstm]"]) == 0
    cases = json.loads((in_tmp_dir / "short" / "benchmark.json").read_text())["cases"]
    assert [len(case["turns"]) for case in cases.values()] == [1, 1]


def test_a_benchmark_that_was_stopped_resumes_with_the_turn_that_was_next(in_tmp_dir, capsys, monkeypatch):
    command = ["benchmark", *TINY, "run_dir=out", "staggered=[]", "measures=[update]", "memories=[memoryless,lstm]"]
    taken = []

    def stopped(function, *arguments):
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(arguments)
        return in_fresh_process(function, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(benchmark_module, "in_fresh_process", stopped)
        assert main(command) == 130
    before = json.loads((in_tmp_dir / "out" / "benchmark.json").read_text())["cases"]
    capsys.readouterr()
    assert main(command) == 0
    assert re.findall(r"(\w+) at 32 steps, update, turn (\d) of 2 ", capsys.readouterr().err) == [("lstm", "2")]
    after = json.loads((in_tmp_dir / "out" / "benchmark.json").read_text())["cases"]
    assert after["update/memoryless/32"] == before["update/memoryless/32"]
    assert after["update/lstm/32"]["turns"][0] == before["update/lstm/32"]["turns"][0]


@pytest.mark.slow
def test_memory_of_updates_is_that_of_training():
    """Counting FLOPs keeps tensors alive, which must not inflate the reported memory."""
    sizes = ["model.d_model=64", "model.n_layers=4", "model.n_heads=8", "model.d_ff=256", "model.segment_length=256"]
    lengths = ["model.summary_length=32", "context_lengths=[8192]", "staggered_length=512", "input_sets=1"]
    plain, checkpointed = (
        in_fresh_process(measure, case)["update_peak_bytes"]
        for case in cases(*sizes, *lengths, "memories=[memo,memo_checkpointed]", "measures=[update]", "staggered=[]")
    )
    assert checkpointed < 0.4 * plain


def test_boundaries_one_by_one_and_streaming_are_measured():
    *_, staggered, streaming = cases("memories=[memo]", "streaming_steps=40", "streaming_budget=14")
    assert measure(staggered)["staggered_seconds"] > 0
    metrics = measure(streaming)
    assert metrics["old_steps"] == 40
    assert metrics["old_bytes"] == metrics["young_bytes"]


def test_a_benchmark_leaves_its_results_and_resumes_where_it_was(in_tmp_dir, capsys):
    command = ["benchmark", *TINY, "run_dir=out", "staggered=[]"]
    assert main([*command, "memories=[memoryless]"]) == 0
    first = json.loads((in_tmp_dir / "out" / "benchmark.json").read_text())
    capsys.readouterr()
    assert main([*command, "memories=[memoryless,lstm]"]) == 0
    said = capsys.readouterr()
    assert "keeping 4 turns that are already in out" in said.err
    assert "memoryless" not in said.err
    both = json.loads((in_tmp_dir / "out" / "benchmark.json").read_text())
    assert both["cases"]["acting/memoryless/32"] == first["cases"]["acting/memoryless/32"]
    assert both["cases"]["update/lstm/32"]["tokens_per_second"] > 0
    assert "update tokens/s" in said.out
    assert "out/benchmark.json" in said.out
    assert "| lstm " in (in_tmp_dir / "out" / "benchmark.md").read_text()
    assert (in_tmp_dir / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert main([*command, "memories=[gru]", "model.d_model=32"]) == 2
    assert "run_dir=out: contains a benchmark with other settings" in capsys.readouterr().err


def test_every_baseline_is_an_arm():
    config = compose_config("benchmark", [*TINY, '+arms.mine=["baseline=gru"]'])
    options = {path.stem for path in (config_dir() / "baseline").glob("*.yaml")} - {"none", "custom"}
    arms = arms_of(config)
    assert set(arms) == {"memo", "memo_checkpointed", "mine", *options}
    assert list(arms)[:4] == ["memo", "memo_checkpointed", "full_context", "rmt"]
    assert arms["lstm"] == ["baseline=lstm"]
    assert [case.memory for case in plan(config) if case.key.startswith("update/")] == list(arms)


def test_a_memory_of_ones_own_is_an_arm():
    arm = '["baseline=custom","baseline.target=memo_lightning.models.GRU","+baseline.settings.n_layers=1"]'
    _, case = cases(f"+arms.mine={arm}", "memories=[mine]")
    assert measure(case)["state_bytes"] == 16 * 4


def killed(case):
    os.kill(os.getpid(), signal.SIGKILL)


def failing(case):
    raise RuntimeError("no room\nfor this")


def test_one_memory_that_fails_does_not_cost_the_others():
    case = cases("memories=[memoryless]")[0]
    assert "killed" in in_fresh_process(killed, case)["failed"]
    assert in_fresh_process(failing, case) == {"failed": "RuntimeError: no room for this"}


def test_a_memory_whose_steps_disagree_is_not_timed(monkeypatch):
    case = cases("memories=[lstm]")[0]
    model = case.build_model()
    check_steps(case, model)
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, x, is_init=None: 1.1 * forward(self, x, is_init))
    with pytest.raises(DisagreementError, match="lstm: step differs from forward by"):
        check_steps(case, model)


def test_peak_memory_is_what_was_allocated_in_between():
    peak = PeakMemory(torch.device("cpu"))
    if peak.read() is None:
        pytest.skip("the system does not tell")
    tensor = torch.ones(64 * 2**20, dtype=torch.uint8)
    del tensor
    assert 0.95 * 64 * 2**20 < peak.read() < 72 * 2**20


def test_ratios_are_those_of_the_metrics_and_judge_nothing():
    costs = {
        "update/full_context/8192": {"update_seconds": 3.0, "update_cpu_seconds": 8.0},
        "update/memo/8192": {"update_seconds": 2.0, "update_cpu_seconds": 2.0},
        "staggered/memo/4096": {"memory": "memo", "staggered_seconds": 1.5, "lockstep_seconds": 1.0},
        "update/full_context/32768": {"failed": "killed"},
    }
    update, staggered = ratios(costs)
    assert update == {
        "name": "update time at 8,192: full_context / memo",
        "value": 1.5,
        "by_cpu_time": 4.0,
    }
    assert staggered["value"] == 1.5
    assert "aim" not in ratio_table([update, staggered])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("memories=[mem]", "memories=mem: did you mean memo"),
        ("memories=[]", "memories=[]: must be one or more of memo,"),
        ("context_lengths=[]", "context_lengths=[]: must be one or more"),
        ("context_lengths=[12]", "context_lengths=12: must be a multiple of model.segment_length=8"),
        ("context_lengths=[8]", "context_lengths=8: must be a multiple"),
        ("staggered=[lstm]", "staggered='lstm': must be a memory with segments: memo"),
        ("measures=[speed]", "measures='speed': must be update or acting"),
        ("threads=0", "threads=0: must be at least 1"),
        ("precision=float16", "precision='float16': must be float32 or bfloat16"),
        ("device=tpu", "device='tpu': must be cpu or cuda"),
        ("streaming_steps=9 streaming_budget=9", "memory_budget=9: must be at least 10"),
        ("streaming_steps=-1", "streaming_steps=-1: must be at least 0"),
        ("model.n_heads=3", "d_model=16: must be divisible by n_heads=3"),
        ("run_dir=/proc/run", "run_dir=/proc/run: must be writable"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(override, message, in_tmp_dir, capsys):
    assert main(["benchmark", *TINY, "memories=[memo,lstm]", *override.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    assert not list(in_tmp_dir.iterdir())
