"""The speed-up by worker processes of costly steps: ``python -m memo_lightning.benchmarks.env_workers [--out FILE]``.

Needs as many idle cores as workers.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np

from memo_lightning.benchmarks.script import parser, report
from memo_lightning.envs.gymnasium.env import GymnasiumEnv


class Busy(gymnasium.Env):
    """An environment whose steps take CPU time and whose episodes never end.

    Args:
        seconds: CPU time per step.
    """

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, seconds: float = 1e-3) -> None:
        self._seconds = seconds

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Use up CPU time."""
        end = time.thread_time() + self._seconds
        while time.thread_time() < end:
            pass
        return np.zeros(1, np.float32), 0.0, False, False, {}


def steps_per_second(n_workers: int, n_envs: int = 8, n_tries: int = 60) -> float:
    """Return the steps per second of all environments, in the best try, which other load disturbs least."""
    env = GymnasiumEnv(n_envs=n_envs, make=Busy, trial_length=10**6, workers=n_workers)
    try:
        td, best = env.rand_action(env.reset()), np.inf
        for _ in range(n_tries):
            start = time.perf_counter()
            env.step(td)
            best = min(best, time.perf_counter() - start)
    finally:
        env.close()
    return n_envs / best


if __name__ == "__main__":
    out = parser("env_workers", __doc__).parse_args().out
    alone, spread = steps_per_second(0), steps_per_second(2)
    report({"in_process": round(alone), "two_workers": round(spread), "ratio": round(spread / alone, 2)}, out)
