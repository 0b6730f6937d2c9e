"""Pruning reports at multiples of frames, whatever the rollout size, and ends the run when told to."""

import pytest

from memo_lightning.callbacks import Pruning
from memo_lightning.config import compose_config
from memo_lightning.training.train import train
from tiny import TINY_TRAINING

TINY = [
    *TINY_TRAINING,
    "total_frames=1600",
    "logger=none",
]


def run(folder, every_n_frames, prune_at=None):
    """Train for five rollouts of 320 frames; return the reports and the run's metrics."""
    reports = []

    def report(frames, value):
        reports.append((frames, value))
        return frames == prune_at

    pruning = Pruning("train/return_per_trial", every_n_frames, report)
    metrics = train(compose_config("train", [*TINY, f"run_dir={folder}"]), [pruning])
    assert pruning.pruned == (prune_at is not None)
    return reports, metrics


@pytest.mark.parametrize(
    ("every_n_frames", "multiples"),
    [(320, [320, 640, 960, 1280, 1600]), (500, [500, 1000, 1500]), (100, [300, 600, 900, 1200, 1600])],
)
def test_reports_come_at_multiples_of_frames(every_n_frames, multiples, tmp_path):
    reports, metrics = run(tmp_path, every_n_frames)
    assert [frames for frames, _ in reports] == multiples
    history = {point["frames"]: point["return_per_trial"] for point in metrics["history"]}
    for frames, value in reports:
        # The rollout that passed the multiple.
        assert value == pytest.approx(history[-(-frames // 320) * 320])


def test_a_pruned_run_ends_like_a_finished_one(tmp_path):
    _, metrics = run(tmp_path, 320, prune_at=640)
    assert metrics["frames"] == 640
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert (tmp_path / "in_context_curve.png").is_file()
