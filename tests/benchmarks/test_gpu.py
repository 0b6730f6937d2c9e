"""The GPU benchmark at toy sizes on the CPU, and how it handles failures."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from memo_lightning.benchmarks.gpu import acting, correctness, updates
from memo_lightning.benchmarks.gpu.aims import _LEAST, _MOST, aims
from memo_lightning.benchmarks.gpu.command import main
from memo_lightning.benchmarks.gpu.measure import Measure, Settings, SkippedError
from memo_lightning.benchmarks.gpu.memories import NAMES
from memo_lightning.benchmarks.gpu.memories import TINY as TINY_SIZES
from memo_lightning.benchmarks.gpu.plan import plan
from memo_lightning.benchmarks.gpu.updates import with_rows_that_fit
from memo_lightning.benchmarks.gpu.worker import Worker
from memo_lightning.models import Memoryless

TINY = ["--device", "cpu", "--tiny", "--out", "out/gpu.json"]
WITHOUT_TRAINING = ["attention", "correctness/memo/", "update", "utilisation", "acting", "navigation", "profile"]


@pytest.mark.slow
def test_everything_but_training_runs_at_toy_sizes(in_tmp_dir, capfd):
    assert main([*TINY, "--only", *WITHOUT_TRAINING]) == 0
    said = capfd.readouterr()
    report = json.loads(said.out)
    assert report == json.loads((in_tmp_dir / "out/gpu.json").read_text())
    names = [measure.name for measure in plan(Settings("cpu", tiny=True))]
    results = report["results"]
    assert list(results) == [name for name in names if name.startswith(tuple(WITHOUT_TRAINING))]
    assert not [name for name, result in results.items() if "failed" in result or "skipped" in result]
    assert results["correctness/memo/bfloat16"]["passed"]
    assert results["attention/float32/37_to_80_width_32"]["kernel"] == "CPUFlashKernel"
    update = results["update/width_256_at_4k"]
    seconds = {name: update[name]["seconds"] for name in ("memo", "memo_reencoding")}
    assert update["memo_reencoding / memo"] == pytest.approx(seconds["memo_reencoding"] / seconds["memo"])
    assert results["utilisation/width_768"]["model_tflops"] > 0
    assert 0 < results["acting/policy_width_64"]["step_ms"] <= results["acting/policy_width_64"]["worst_step_ms"]
    assert results["navigation/images_in_chunks"]["fits"]
    assert results["profile/policy_width_64"]["slowest_operators"]
    assert report["system"]["torch"] == torch.__version__
    measured = {aim["name"]: aim["measured"] for aim in report["aims"]}
    assert measured["update at 4k, width 256: official / memo"] == update["memo_reencoding / memo"]
    assert f"[1/{len(results)}] attention/float32/37_to_80_width_32: passed" in said.err


@pytest.mark.slow
def test_a_training_runs_at_toy_sizes(in_tmp_dir, capsys):
    assert main([*TINY, "--only", "training/smoke_single"]) == 0
    result = json.loads(capsys.readouterr().out)["results"]["training/smoke_single"]
    assert result["frames"] == 640
    assert result["frames_per_second"] > 0


def test_every_memory_and_every_collector_is_looked_at():
    names = {measure.name for measure in plan(Settings("cuda"))}
    assert {f"correctness/{name}/{precision}" for name in NAMES for precision in ("float32", "bfloat16")} <= names
    collectors = Path(__file__).parents[2].joinpath("conf/collector").glob("*.yaml")
    assert {f"training/smoke_{path.stem}" for path in collectors} <= names
    assert {measure for _, measure, *_ in (*_LEAST, *_MOST)} <= names


@pytest.mark.parametrize("name", NAMES)
def test_memories_agree_with_themselves(name):
    result = correctness.compare_memory(Settings("cpu", tiny=True), name, "float32")
    assert result["passed"], result["differences"]


def test_a_memory_that_computes_something_else_does_not_pass(monkeypatch):
    prefill = Memoryless.prefill

    def wrong(self, x, is_init):
        y, state = prefill(self, x, is_init)
        return 1.01 * y, state

    monkeypatch.setattr(Memoryless, "prefill", wrong)
    assert not correctness.compare_memory(Settings("cpu", tiny=True), "memoryless", "float32")["passed"]


def fine(settings):
    return {"process": os.getpid(), "limit": settings.seconds}


def raising(settings):
    raise RuntimeError("CUDA error:\nan illegal memory access")


def dying(settings):
    os._exit(1)


def hanging(settings):
    time.sleep(60)


def pointless(settings):
    raise SkippedError("nothing to see")


def test_what_fails_is_written_down_and_the_rest_goes_on():
    worker = Worker(Settings("cpu"))
    try:
        first = worker.take(Measure("fine", fine), 30)
        assert first["limit"] == 30
        assert worker.take(Measure("fine", fine), 30)["process"] == first["process"]
        assert worker.take(Measure("pointless", pointless), 30)["skipped"] == "nothing to see"
        missing = worker.take(Measure("needs", fine, needs=("torch", "no_such_module")), 30)
        assert missing == {"skipped": "not installed: no_such_module"}
        failed = worker.take(Measure("raising", raising), 30)["failed"]
        assert failed == "RuntimeError: CUDA error: an illegal memory access"
        assert worker.take(Measure("fine", fine), 30)["process"] != first["process"]
        assert "its process died" in worker.take(Measure("dying", dying), 30)["failed"]
        worker.take(Measure("fine", fine), 30)
        assert worker.take(Measure("hanging", hanging), 0.5)["failed"] == "took longer than 0 s"
        assert worker.take(Measure("fine", fine), 30)["limit"] == 30
    finally:
        worker.stop()


def test_when_the_time_is_over_no_measurement_begins(in_tmp_dir, capsys):
    assert main([*TINY, "--minutes", "0"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {result["skipped"] for result in report["results"].values()} == {"the limit of 0 minutes was reached"}
    assert all(aim["reached"] is None for aim in report["aims"])


HIDING = """
import sys

HIDDEN = ("hydra", "omegaconf", "mlflow", "lightning", "torchrl", "gymnasium", "optuna", "matplotlib", "ray")


class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Hiding())
"""


def test_where_packages_are_missing_the_memories_are_measured_all_the_same(in_tmp_dir):
    """Measuring must not import the packages for configuration or training."""
    (in_tmp_dir / "sitecustomize.py").write_text(HIDING)
    only = ["--only", "attention/float32/37", "acting", "navigation", "training/smoke_single"]
    path = os.pathsep.join([str(in_tmp_dir), str(Path(__file__).parents[2] / "src")])
    command = [sys.executable, "-m", "memo_lightning.benchmarks.gpu", *TINY, *only]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    skipped = {name: result["skipped"] for name, result in results.items() if "skipped" in result}
    assert skipped["training/smoke_single"].startswith(
        "not installed: hydra, omegaconf, lightning, mlflow, torchrl, gymnasium"
    )
    assert skipped["acting/policy_width_64"] == "not installed: torchrl, gymnasium"
    assert set(results) - set(skipped) == {
        "attention/float32/37_to_80_width_32",
        *(f"acting/{name}_width_64" for name in ("memo", "full_context", "lstm")),
        *(f"acting/memo_width_256_{precision}" for precision in ("float32", "bfloat16")),
        "navigation/features",
    }


def test_fewer_sequences_where_they_do_not_fit():
    tried = []

    def measure(rows):
        tried.append(rows)
        if rows > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows

    assert with_rows_that_fit(measure, 20) == 5
    assert tried == [20, 10, 5]
    with pytest.raises(SkippedError, match="one sequence does not fit in the GPU's memory"):
        with_rows_that_fit(lambda rows: measure(100), 2)


def test_aims_are_judged_by_what_was_measured():
    rows = {
        aim["name"]: aim
        for aim in aims(
            {
                "update/width_256_at_4k": {"memo_reencoding / memo": 6.0},
                "acting/policy_width_64": {"step_ms": 1.2, "synchronisations": {"base.py:7": 1, "agent.py:9": 1}},
                "navigation/images_of_half_the_sequences": {"fits": False},
            }
        )
    }
    assert rows["update at 4k, width 256: official / memo"]["reached"] is True
    assert rows["acting step of 128 environments, policy, ms"]["reached"] is False
    assert rows["host synchronisations of an acting step"]["measured"] == 2
    assert rows["bytes of one of images, in two minibatches"]["reached"] is False
    assert rows["model FLOPs of the card's peak, width 768"]["reached"] is None


def test_mistakes_are_one_line(in_tmp_dir, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert capsys.readouterr().err == "--device cuda: there is no GPU here; must be cpu, with --tiny\n"
    assert main([*TINY[:-1], "/proc/gpu.json"]) == 2
    assert "--out /proc/gpu.json: must be writable" in capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_memories_on_a_card_agree_with_the_cpu(name, precision):
    result = correctness.compare_memory(Settings("cuda"), name, precision)
    assert result["passed"], result["differences"]


@pytest.mark.cuda
def test_recorded_updates_on_a_card_have_the_same_gradients():
    result = updates.compare_recorded(Settings("cuda"), TINY_SIZES, 2, 32, "bfloat16")
    assert result["same_gradients"]


def test_without_a_card_nothing_is_recorded():
    with pytest.raises(SkippedError, match="CUDA graphs need a GPU"):
        updates.compare_recorded(Settings("cpu", tiny=True), TINY_SIZES, 2, 32, "bfloat16")
    with pytest.raises(SkippedError, match="CUDA graphs need a GPU"):
        acting.measure_policy(Settings("cpu", tiny=True), TINY_SIZES, 3, recorded=True)
    names = [measure.name for measure in plan(Settings("cuda"))]
    assert {"recorded/width_768_at_32k", "recorded/policy_width_64", "recorded/dark_key_to_door_4096"} <= set(names)
    assert "recorded_compiled/quick" in names


@pytest.mark.cuda
def test_a_step_of_memo_waits_for_the_card_at_no_more_than_one_line():
    result = acting.measure_steps(Settings("cuda", tiny=True), "memo", TINY_SIZES, 3, 20)
    assert len(result["synchronisations"]) <= 1


@pytest.mark.cuda
@pytest.mark.parametrize("recorded", [False, True])
def test_a_step_of_a_policy_waits_for_the_card_only_to_read_the_action(recorded):
    result = acting.measure_policy(Settings("cuda", tiny=True), TINY_SIZES, 3, recorded=recorded)
    assert sum(result["synchronisations"].values()) <= 1
