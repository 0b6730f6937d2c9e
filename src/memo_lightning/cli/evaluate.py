"""``memo evaluate``: run a checkpoint on held-out trials."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.evaluation.evaluate import evaluate
from memo_lightning.overrides import command
from memo_lightning.wording import returns_in_words

HELP = """Runs trials of tasks that training never drew and leaves evaluation.json, in_context_curve.png and, for Memo,
summary_attention.png, by default in <run_dir of the checkpoint>/evaluation/, and metrics in its MLflow run."""


def main(arguments: Sequence[str]) -> None:
    """Evaluate, print the metrics, and say what to do next."""
    if print_help("evaluate", HELP, arguments):
        return
    config = compose_config("evaluate", arguments)
    metrics = evaluate(config, announce=partial(print, file=sys.stderr, flush=True))
    mean_length = metrics["mean_trial_length"]
    print(f"{metrics['n_trials']} trials of {mean_length:,.0f} steps, {metrics['split']} tasks")
    print(f"return per trial  {_with_interval(metrics)}")
    if "full_memory" in metrics:
        print(f"with full memory  {_with_interval(metrics['full_memory'])}")
    print(f"by quarter        {' / '.join(returns_in_words(*metrics['return_by_quarter']))}")
    n_episodes = len(metrics["by_episode"]["return"])
    _print_table("episode", range(1, 1 + n_episodes), metrics["by_episode"], n_columns=8)
    _print_table("up to step", map(int, metrics["by_steps"]["steps"]), metrics["by_steps"])
    print(f"results           {config.run_dir}/: {', '.join(metrics['files'])}")
    after = [] if config.render else [command("memo", "evaluate", *arguments, "render=true")]
    if config.trial_multiplier == 1:
        after.append(command("memo", "evaluate", *arguments, "trial_multiplier=8"))
    if metrics["mlflow_run_id"]:
        after.append("memo compare")
    if after:
        print("\nnext: " + "\n      ".join(after))


def _with_interval(metrics: dict[str, Any]) -> str:
    mean, low, high = returns_in_words(metrics["return_per_trial"], *metrics["return_per_trial_interval"])
    return f"{mean} (95 % interval {low} to {high})"


def _print_table(name: str, columns: Any, table: dict[str, list[Any]], n_columns: int = 10) -> None:
    """Print the first columns of a table of metrics by episode or by steps."""
    heads = [f"{head:>6}" for head in columns][:n_columns]
    print(f"{name:<17} " + " ".join(heads))
    for key, label in (("return", "return"), ("success", "success"), ("spl", "SPL")):
        if key in table:
            values = ["     -" if value is None else f"{value:6.2f}" for value in table[key]]
            print(f"  {label:<15} " + " ".join(values[: len(heads)]))
