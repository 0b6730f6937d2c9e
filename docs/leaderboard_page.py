"""The leaderboard, `docs/leaderboard.md`: the runs in `results/runs/`, by task and memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from results_page import SCALE, claims_in_order

from memo_lightning.evaluation.in_context import Estimate
from memo_lightning.evaluation.statistics import estimate_over_seeds
from memo_lightning.reproduction.results import Results
from memo_lightning.reproduction.runs import chain, evaluation_key, plan
from memo_lightning.wording import returns_in_words

# Evaluations at the length of training, on tasks or placements that were held out.
_EVALUATIONS = ("trained_length", "unseen", "full", "held_out_placements", "longest")
TASKS = {
    "dark_key_to_door": "Dark-Key-To-Door 5x5",
    "dark_key_to_door_9x9": "Dark-Key-To-Door 9x9",
    "dark_key_to_door_8x8": "Dark-Key-To-Door 8x8, whose resets cost a step",
    "darkroom": "Darkroom",
    "two_rooms": "Many Rooms, K = 2",
    "eight_rooms": "Many Rooms, K = 8",
    "thirty_two_rooms": "Many Rooms, K = 32",
    "t_maze_100": "T-Maze, 100 steps",
    "t_maze_1000": "T-Maze, 1,000 steps",
    "t_maze_10000": "T-Maze, 10,000 steps",
    "ext_objnav_small": "Object navigation, small house",
    "many_houses": "Object navigation, unseen houses of three rooms",
    "full_houses": "Object navigation, unseen full houses",
}
_HEAD = """# Leaderboard

<!-- Made by `python docs/from_results.py`: change results/, not this page. -->

All memories by task, as trained for the [claims](results.md): return per trial on tasks that were held out from
training, at the length of training. Values are interquartile means over seeds, with 95 % intervals; the memory is the
most that one environment's takes. Names are those of the arms in `conf/reproduce/`, which have their settings.

Read intervals before ranks: memories whose intervals overlap are not known to differ. Tasks that are missing here have
not been run yet, and some memories have fewer seeds than their claim asks for.
"""
_OWN = """## Add a memory of your own

Copy a claim, add an arm with [your memory](how-to/own-memory.md), and run it. Runs that exist are not made again:

```yaml
arms:
  memo: [experiment=fair_memo]
  mine: [baseline=custom, baseline.target=my_memory.Averages]
```

```text
cp -r results my_results
memo reproduce my_claim.yaml results=my_results workers=2
```

[Compare memories fairly](how-to/compare-memories.md) says how to tune it with the same budget as the others.
"""


@dataclass
class _Row:
    """An arm on a task.

    Attributes:
        arm: its name.
        frames: that each of its runs was trained for.
        evaluations: the evaluation of each seed.
    """

    arm: str
    frames: int
    evaluations: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    def estimate(self, name: str) -> Estimate:
        """Return the estimate of a number over the seeds."""
        return estimate_over_seeds(np.array([evaluation[name] for evaluation in self.evaluations.values()]))


def leaderboard_page(folder: Path) -> str:
    """Return the page.

    Args:
        folder: of the results.
    """
    references = {task["task"]: task for task in json.loads((folder / "reference_returns.json").read_text())}
    parts = [_HEAD]
    for task, rows in _rows(Results(folder)).items():
        if len(rows) > 1:
            parts.append("\n".join(_section(task, rows, references.get(task))))
    return "\n\n".join([*parts, _OWN])


def _rows(results: Results) -> dict[str, list[_Row]]:
    """Return the arms of every task that have runs, the best first."""
    found: dict[str, dict[str, _Row]] = {}
    for claim in claims_in_order():
        for cell in plan(claim, SCALE) if claim.scales else []:
            name = next((name for name in _EVALUATIONS if name in cell.evaluations), None)
            for run in cell.runs if name else []:
                kept = results.run(run)
                evaluation = kept and kept["evaluations"].get(evaluation_key(cell.evaluations[name or ""]))
                if kept and evaluation:
                    # An arm of several claims is the same if its settings are, and those that it starts from.
                    same = json.dumps([each.settings for each in chain(run)], sort_keys=True, default=str)
                    row = _Row(cell.arm, kept["training"]["frames"])
                    found.setdefault(cell.task, {}).setdefault(same, row).evaluations[run.seed] = evaluation
    ranked = {task: found[task] for task in TASKS if task in found}
    return {
        task: sorted(rows.values(), key=lambda row: -float(row.estimate("return_per_trial").mean))
        for task, rows in ranked.items()
    }


def _section(task: str, rows: list[_Row], reference: Mapping[str, Any] | None) -> Iterator[str]:
    evaluation = next(iter(rows[0].evaluations.values()))
    yield f"## {TASKS[task]}\n"
    length, frames = evaluation["trial_length"], rows[0].frames
    yield f"Trials of {length:,} steps, {frames:,} frames of training, on one core of a CPU.\n"
    yield "| | return per trial (95 % interval) | success | memory | seeds |"
    yield "|---|---|---|---|---|"
    estimates = [row.estimate("return_per_trial") for row in rows]
    numbers = [float(number) for each in estimates for number in (each.mean, each.low, each.high)]
    ends = [reference["told"], reference["random"]] if reference else []
    shown = returns_in_words(*(0.0 if np.isnan(number) else number for number in numbers), *ends)
    if reference:
        yield f"| *told everything* | {shown[-2]} | | | |"
    for number, (row, estimate) in enumerate(zip(rows, estimates, strict=True)):
        mean, low, high = shown[3 * number : 3 * number + 3]
        interval = "" if np.isnan(estimate.low) else f" ({low} to {high})"
        kilobytes = max(evaluation["memory_bytes"] for evaluation in row.evaluations.values()) / 1024
        yield (
            f"| {row.arm} | {mean}{interval} | {float(row.estimate('success').mean):.2f} | {kilobytes:,.1f} KiB "
            f"| {len(row.evaluations)} |"
        )
    if reference:
        yield f"| *random actions* | {shown[-1]} | | | |"
