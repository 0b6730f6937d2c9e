"""The speed of the embedded simulator: ``python -m memo_lightning.benchmarks.house_sim [--out FILE]``.

Rates per core use CPU time, so that time given to other programs does not count. The gain from two cores uses wall
time, taking the fastest of several short runs that alternate between one and two threads.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Sequence

import numpy as np

from memo_lightning.benchmarks.script import parser, report
from memo_lightning.envs.habitat import import_habitat
from memo_lightning.envs.habitat.config import make_config
from memo_lightning.envs.habitat.trial import HabitatTrials
from memo_lightning.houses import REFERENCE_CAMERA, GeneratedSource, HouseSpec, Pose, View, build_house, build_navigator
from memo_lightning.houses.batch import BatchedTrials
from memo_lightning.houses.columns import columns_camera
from memo_lightning.houses.pose import HEADINGS, PITCHES
from memo_lightning.houses.shapes import concatenate


def frames_per_second(n_frames: int) -> float:
    """Return rendered frames (RGB and depth, 64x64 pixels) per second, over poses in several furnished houses."""
    rng = np.random.default_rng(0)
    source = GeneratedSource("held_out", n_placements=1)
    scenes = []
    for index in range(source.n_placements):
        spec, placement = HouseSpec.from_scene_id(source.scene_id(index)), source.placement(index)
        scenes.append((build_navigator(spec), concatenate(build_house(spec).arrays, placement.arrays)))
    views = []
    for k in range(n_frames):
        navigator, solids = scenes[k % len(scenes)]
        x, z = navigator.sample(rng)
        pose = Pose(x, 0.0, z, int(rng.choice(HEADINGS)), int(rng.choice(PITCHES)))
        views.append(View(pose, solids))

    def render(k: int) -> None:
        views[k].rgb(REFERENCE_CAMERA)
        views[k].depth(REFERENCE_CAMERA)

    return _per_second(render, n_frames)


def habitat_steps_per_second(n_steps: int) -> float:
    """Return steps per second of ``habitat.Env`` with RGB and depth, all measures and random actions."""
    env = import_habitat().Env(make_config(sensors=("rgb", "depth")))
    env.reset()
    rng = np.random.default_rng(0)

    def step(_: int) -> None:
        if env.episode_over:
            env.reset()
        env.step(int(rng.integers(1, 6)))

    return _per_second(step, n_steps)


def column_steps_per_second(n_steps: int) -> float:
    """Return steps per second of a trial with the column observation and random actions."""
    env = HabitatTrials(sensors=("columns",), trial_steps=10 * n_steps)
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def step(_: int) -> None:
        env.step(int(rng.integers(1, 6)))

    return _per_second(step, n_steps)


def engine_steps_per_second(
    sensors: Sequence[str], n_rows: int = 128, n_steps: int = 100, n_runs: int = 8
) -> dict[str, float]:
    """Return steps per second of the batched engine over all environments, with all measures and random actions.

    Args:
        sensors: observations; there are 16 columns, images have 64x64 pixels.
        n_rows: number of environments, in training houses of full size.
        n_steps: steps per run.
        n_runs: number of runs, each with one thread and then with two.

    Returns:
        ``per_core_second``, steps per second of CPU time, the median over runs with one thread; ``one_thread`` and
        ``two_threads``, the most steps per second of wall time; and their ratio, ``two_cores``.
    """
    rng = np.random.default_rng(0)
    source = GeneratedSource("train")
    engines = [
        BatchedTrials(source, n_rows, 500, sensors, columns=columns_camera(16), n_threads=n_threads)
        for n_threads in (1, 2)
    ]
    placements = rng.integers(source.n_placements, size=n_rows).tolist()
    for engine in engines:
        engine.begin_trials(np.arange(n_rows), placements)
        _walk(engine, rng, 5)
    by_clock: tuple[list[float], list[float]] = ([], [])
    per_core = []
    for _ in range(n_runs):
        for engine, rates in zip(engines, by_clock, strict=True):
            clock, processor = time.perf_counter(), time.process_time()
            _walk(engine, rng, n_steps)
            rates.append(n_rows * n_steps / (time.perf_counter() - clock))
            if engine is engines[0]:
                per_core.append(n_rows * n_steps / (time.process_time() - processor))
    one, two = max(by_clock[0]), max(by_clock[1])
    return {
        "per_core_second": round(float(np.median(per_core))),
        "one_thread": round(one),
        "two_threads": round(two),
        "two_cores": round(two / one, 2),
    }


def _walk(engine: BatchedTrials, rng: np.random.Generator, n_steps: int) -> None:
    for _ in range(n_steps):
        engine.step(rng.integers(1, 6, len(engine.agents.over)))
        engine.begin_episodes(np.flatnonzero(engine.agents.over))
        engine.observe()


def measure() -> dict[str, object]:
    """Return all rates, the peak memory of this process, and a description of the machine."""
    return {
        "engine_columns": engine_steps_per_second(("columns",)),
        "engine_rgb_depth": engine_steps_per_second(("rgb", "depth"), n_steps=20),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "rgb_depth_frames_per_second": round(frames_per_second(4000)),
        "habitat_env_steps_per_second": round(habitat_steps_per_second(4000)),
        "column_trial_steps_per_second": round(column_steps_per_second(4000)),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_average": [round(value, 2) for value in os.getloadavg()],
        },
    }


def _per_second(run: Callable[[int], None], n: int) -> float:
    """Return the calls of ``run`` per second of CPU time, after a warm-up that compiles and loads."""
    for k in range(10):
        run(k)
    start = time.process_time()
    for k in range(10, n):
        run(k)
    return (n - 10) / (time.process_time() - start)


if __name__ == "__main__":
    out = parser("house_sim", __doc__).parse_args().out
    report(measure(), out)
