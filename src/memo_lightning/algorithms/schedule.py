"""The learning-rate schedule of a run."""

from __future__ import annotations

import math
from typing import Literal, get_args

from memo_lightning.errors import require

Schedule = Literal["constant", "cosine"]


def check_schedule(schedule: str) -> None:
    """Raise :class:`UserError` unless ``schedule`` is the name of a schedule."""
    schedules = get_args(Schedule)
    require(schedule in schedules, "algorithm.schedule", schedule, f"one of {', '.join(schedules)}")


def learning_rate_factor(frames: float, total_frames: int, warmup_frames: int, schedule: Schedule) -> float:
    """Return the factor of the learning rate at ``frames`` of ``total_frames`` environment steps.

    It rises linearly from zero over the first ``warmup_frames``. Then it stays constant, or falls to zero along half a
    cosine (arXiv 1608.03983, without restarts). Unlike torch's schedulers, it depends on frames and not on the number
    of calls, so a run that is resumed for longer than planned follows the longer curve.
    """
    if frames < warmup_frames:
        return frames / warmup_frames
    if schedule == "constant":
        return 1.0
    progress = (frames - warmup_frames) / max(1, total_frames - warmup_frames)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
