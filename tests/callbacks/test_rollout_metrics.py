"""Metrics of rollouts."""

import time

from memo_lightning.config import compose_config
from memo_lightning.envs import DarkKeyToDoor
from memo_lightning.training.train import train
from tiny import TINY_TRAINING


class Slow(DarkKeyToDoor):
    """Has slow steps; a rollout has forty of them."""

    def _advance(self, action):
        time.sleep(0.02)
        return super()._advance(action)


def test_the_time_that_goes_into_collecting_is_told_from_that_of_updates(tmp_path):
    settings = [*TINY_TRAINING, "total_frames=640", "logger=none", f"run_dir={tmp_path}"]
    metrics = train(compose_config("train", [*settings, "env._target_=test_rollout_metrics.Slow"]))
    seconds = metrics["frames"] / metrics["frames_per_second"]
    collecting = metrics["collecting"] * seconds
    assert 2 * 40 * 0.02 <= collecting < seconds
    assert seconds - collecting < collecting, "updates are short here"
