"""``memo benchmark``: measure the cost of every memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memo_lightning.benchmarks.benchmark import benchmark
from memo_lightning.benchmarks.tables import cost_table, ratio_table
from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.overrides import command, override_text

HELP = """Measures what updates and acting cost with every memory, over the length of the context. Memories take turns,
each time in a fresh process. Leaves <run_dir>/ with benchmark.json, benchmark.md and benchmark.png. Give a benchmark
that was stopped its run_dir again, and it resumes. The whole benchmark takes more than an hour on two cores."""


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

next: {more}   # adds memories that it lacks
      memo train baseline=lstm   # trains with one of them""")
