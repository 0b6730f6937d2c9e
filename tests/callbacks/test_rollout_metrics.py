"""Metrics of rollouts."""

import time

import pytest

from memo_lightning.algorithms import PPO
from memo_lightning.config import compose_config
from memo_lightning.envs import DarkKeyToDoor
from memo_lightning.training.train import train
from tiny import TINY_TRAINING

SPENT = {"stepping": 0.0, "updating": 0.0}


class TimedEnv(DarkKeyToDoor):
    """Measures the time of its steps, none of which takes less than twenty milliseconds."""

    def _advance(self, action):
        start = time.perf_counter()
        time.sleep(0.02)
        result = super()._advance(action)
        SPENT["stepping"] += time.perf_counter() - start
        return result


class TimedPPO(PPO):
    """Measures the time of its updates."""

    def update(self, batch, run):
        start = time.perf_counter()
        result = super().update(batch, run)
        SPENT["updating"] += time.perf_counter() - start
        return result


def test_the_time_that_goes_into_collecting_is_told_from_that_of_updates(tmp_path, monkeypatch):
    for part in SPENT:
        monkeypatch.setitem(SPENT, part, 0.0)
    settings = [*TINY_TRAINING, "total_frames=640", "logger=none", f"run_dir={tmp_path}"]
    timed = ["env._target_=test_rollout_metrics.TimedEnv", "algorithm._target_=test_rollout_metrics.TimedPPO"]
    metrics = train(compose_config("train", [*settings, *timed]))
    seconds = metrics["frames"] / metrics["frames_per_second"]
    collecting = metrics["collecting"] * seconds
    assert SPENT["stepping"] > 2 * 40 * 0.02
    assert SPENT["updating"] > 0
    assert collecting == pytest.approx(seconds - SPENT["updating"], rel=0.2)
    assert collecting > SPENT["stepping"]
