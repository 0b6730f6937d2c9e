"""How fast the embedded simulator is, on one core: ``python -m memo_lightning.benchmarks.house_sim``.

Seconds are processor time, so other programs on the machine do not count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np

from memo_lightning.envs.habitat import import_habitat
from memo_lightning.envs.habitat.config import make_config
from memo_lightning.envs.habitat.trial import TrialEnv
from memo_lightning.houses import REFERENCE_CAMERA, GeneratedSource, HouseSpec, Pose, View, build_house, build_navigator
from memo_lightning.houses.pose import HEADINGS, PITCHES
from memo_lightning.houses.shapes import concatenate


def frames_per_second(n_frames: int) -> float:
    """Return RGB and depth images of 64x64 pixels per second, over poses in several furnished houses."""
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
    """Return steps of ``habitat.Env`` per second, with RGB and depth, all measures and random walking."""
    env = import_habitat().Env(make_config(sensors=("rgb", "depth")))
    env.reset()
    rng = np.random.default_rng(0)

    def step(_: int) -> None:
        if env.episode_over:
            env.reset()
        env.step(int(rng.integers(1, 6)))

    return _per_second(step, n_steps)


def column_steps_per_second(n_steps: int) -> float:
    """Return steps of a trial per second with the light observation and random walking."""
    env = TrialEnv(sensors=("columns",), trial_steps=10 * n_steps)
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def step(_: int) -> None:
        env.step(int(rng.integers(1, 6)))

    return _per_second(step, n_steps)


def _per_second(run: Callable[[int], None], n: int) -> float:
    """Return how often per second ``run`` can be called, after a start that compiles and loads."""
    for k in range(10):
        run(k)
    start = time.process_time()
    for k in range(10, n):
        run(k)
    return (n - 10) / (time.process_time() - start)


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "rgb_depth_frames_per_second": round(frames_per_second(4000)),
                "habitat_env_steps_per_second": round(habitat_steps_per_second(4000)),
                "column_trial_steps_per_second": round(column_steps_per_second(4000)),
            }
        )
    )
