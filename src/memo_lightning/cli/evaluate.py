"""``memo evaluate``: run a checkpoint on held-out trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.evaluation.evaluate import evaluate

HELP = """Runs trials of tasks that training never drew and leaves evaluation.json, in_context_curve.png and, for Memo,
summary_attention.png, by default in <run_dir of the checkpoint>/evaluation/, and metrics in its MLflow run."""


def main(arguments: Sequence[str]) -> None:
    """Evaluate and print the figures."""
    if print_help("evaluate", HELP, arguments):
        return
    config = compose_config("evaluate", arguments)
    figures = evaluate(config)
    low, high = figures["return_per_trial_interval"]
    by_episode = figures["by_episode"]
    print(f"{figures['n_trials']} trials of {figures['trial_length']} steps, {figures['split']} tasks")
    print(f"return per trial  {figures['return_per_trial']:.1f} (95 % interval {low:.1f} to {high:.1f})")
    if "full_memory" in figures:
        low, high = figures["full_memory"]["return_per_trial_interval"]
        full = figures["full_memory"]["return_per_trial"]
        print(f"with full memory  {full:.1f} (95 % interval {low:.1f} to {high:.1f})")
    print(f"by quarter        {' / '.join(f'{value:.1f}' for value in figures['return_by_quarter'])}")
    print("episode           " + "  ".join(f"{k:>5}" for k in range(1, 9)))
    print("  return          " + "  ".join(f"{value:5.2f}" for value in by_episode["return"][:8]))
    print("  success         " + "  ".join(f"{value:5.2f}" for value in by_episode["success"][:8]))
    if "spl" in by_episode:
        print("  SPL             " + "  ".join(f"{value:5.2f}" for value in by_episode["spl"][:8]))
    files = sorted(path.name for path in Path(config.run_dir).iterdir())
    print(f"results           {config.run_dir}/: {', '.join(files)}")
