"""The benchmarks that run as modules print their results, and write them where they are told to."""

import json
import subprocess
import sys

import pytest

from memo_lightning.benchmarks.script import parser, report


@pytest.mark.parametrize("name", ["env_workers", "serving"])
def test_every_benchmark_says_how_it_is_run(name):
    command = [sys.executable, "-m", f"memo_lightning.benchmarks.{name}", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"usage: python -m memo_lightning.benchmarks.{name} [-h] [--out FILE]")


def test_results_are_printed_and_written(tmp_path, capsys):
    results = {"rate": 3.5}
    report(results, parser("name", None).parse_args(["--out", str(tmp_path / "results.json")]).out)
    report(results, parser("name", None).parse_args([]).out)
    assert [*tmp_path.iterdir()] == [tmp_path / "results.json"]
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert capsys.readouterr().out == 2 * (json.dumps(results, indent=2) + "\n")
