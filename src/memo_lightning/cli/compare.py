"""``memo compare``: compare finished runs, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence

from memo_lightning.cli.help import print_help
from memo_lightning.cli.next_commands import ui_commands
from memo_lightning.config import compose_config
from memo_lightning.evaluation.comparison import as_markdown, compare
from memo_lightning.tracking import describe_store

HELP = """Compares the finished runs in MLflow: scores with intervals over seeds, costs, learning curves and in-context
curves. Writes comparison.md, comparison.png and comparison.json to run_dir."""


def main(arguments: Sequence[str]) -> None:
    """Compare the runs and print the table."""
    if print_help("compare", HELP, arguments):
        return
    config = compose_config("compare", arguments)
    what = f"study {config.study} in " if config.study else ""
    where = describe_store(config.tracking_uri, config.experiment_name)
    print(f"comparing the finished runs of {what}{where}, writing to {config.run_dir}\n")
    print(as_markdown(compare(config)))
    print(f"results: {config.run_dir}/comparison.md, comparison.png, comparison.json")
    for line in ui_commands(config.tracking_uri):
        print(f"next: {line}")
