"""``memo benchmark``: measure the cost of every memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memo_lightning.benchmarks.benchmark import benchmark
from memo_lightning.benchmarks.tables import cost_table, ratio_table
from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.overrides import command, override_text

HELP = """Measures the cost of updates and of acting with every memory, by context length. Memories take turns, each
time in a fresh process. Writes benchmark.json, benchmark.md and benchmark.png to <run_dir>/. To resume a benchmark that
was stopped, give the same run_dir. The whole benchmark takes more than an hour on two cores."""


def main(arguments: Sequence[str]) -> None:
    """Run the benchmark and print its tables."""
    if print_help("benchmark", HELP, arguments):
        return
    config = compose_config("benchmark", arguments)
    results = benchmark(config)
    print(f"\n{cost_table(results['cases'])}\n")
    if results["ratios"]:
        print(f"{ratio_table(results['ratios'])}\n")
    plot = Path(config.run_dir) / "benchmark.png"
    if plot.is_file():
        print(f"plot     {plot}")
    more = command("memo", "benchmark", *arguments, override_text("run_dir", config.run_dir), "memories=[memo,lstm]")
    print(f"""results  {config.run_dir}/benchmark.json, {config.run_dir}/benchmark.md

next: {more}   # adds missing memories
      memo train baseline=lstm   # trains with one of them""")
