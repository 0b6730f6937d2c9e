"""``memo evaluate``: run a checkpoint on held-out trials."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from memo_lightning.cli.help import print_help
from memo_lightning.cli.next_commands import compare_command
from memo_lightning.config import compose_config
from memo_lightning.evaluation.evaluate import evaluate
from memo_lightning.overrides import command
from memo_lightning.wording import returns_in_words

HELP = """Runs trials on tasks that were never trained on. Writes evaluation.json, in_context_curve.png and, for Memo,
summary_attention.png, by default to <run_dir of the checkpoint>/evaluation/, and logs metrics to its MLflow run. With
render=true, also writes a video of a trial, trial.mp4, and a page to look inside it, trial.html."""

_LABELS = {"return": "return", "success": "success", "spl": "SPL"}


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
    for key in ("success", "spl"):
        if key in metrics:
            print(f"{_LABELS[key]:<17} {metrics[key]:.2f} (mean over episodes)")
    if n_episodes > 1:
        _print_table("episode", range(1, 1 + n_episodes), metrics["by_episode"])
        _print_table("up to step", [int(step) for step in metrics["by_steps"]["steps"]], metrics["by_steps"])
    print(f"results           {config.run_dir}/: {', '.join(metrics['files'])}")
    after = [] if config.render else [command("memo", "evaluate", *arguments, "render=true")]
    if config.trial_multiplier == 1:
        after.append(command("memo", "evaluate", *arguments, "trial_multiplier=8"))
    if config.tracking_uri:
        after.append(compare_command(config.tracking_uri, metrics["mlflow_experiment"]))
    if after:
        print("\nnext: " + "\n      ".join(after))


def _with_interval(metrics: dict[str, Any]) -> str:
    mean, low, high = returns_in_words(metrics["return_per_trial"], *metrics["return_per_trial_interval"])
    return f"{mean} (95 % interval {low} to {high})"


def _print_table(name: str, heads: Sequence[int], table: dict[str, list[Any]], width: int = 80) -> None:
    """Print as many columns of a table of metrics by episode or by step as fit, and how many are left out."""
    shown = {key: table[key] for key in _LABELS if any(value is not None for value in table.get(key, []))}
    if not shown:
        return
    # A column is empty if no episode ended in it.
    kept = [k for k in range(len(heads)) if any(values[k] is not None for values in shown.values())]
    lines = {name: [str(heads[k]) for k in kept]}
    for key, values in shown.items():
        present = iter(returns_in_words(*(values[k] for k in kept if values[k] is not None)))
        lines[f"  {_LABELS[key]}"] = ["-" if values[k] is None else next(present) for k in kept]
    widths = [max(map(len, column)) for column in zip(*lines.values(), strict=True)]
    n_columns = sum(17 + end <= width for end in accumulate(1 + size for size in widths))
    for label, cells in lines.items():
        print(
            f"{label:<17}" + "".join(f" {cell:>{size}}" for cell, size in zip(cells[:n_columns], widths, strict=False))
        )
    if n_columns < len(widths):
        print(f"  the other {len(widths) - n_columns} of {len(widths)} are in evaluation.json")
