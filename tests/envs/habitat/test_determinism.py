import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from memo_lightning.envs.habitat.trial import HabitatTrials

IMAGES = ("rgb", "depth", "semantic", "column_range", "column_type")
TRIAL_HASH = "9f3d1d0d88e6deecfcf314a01d751785180ffbb7c60e620a241e94752357e34b"


def trial_hash():
    """Return the hash of all images in a fixed trial with walking, turning, tilting, collisions and stops."""
    env = HabitatTrials(trial_steps=400, sensors=("rgb", "depth", "semantic", "columns"), split="held_out")
    observation, _ = env.reset(options={"placement": 1234})
    digest = hashlib.sha256()
    # Mostly forward, so that the agent moves around and meets walls; an occasional stop begins a new episode.
    actions = np.arange(400) * 7 % 23
    for action in np.where(actions > 5, 1, actions):
        observation, *_ = env.step(int(action))
        for name in IMAGES:
            digest.update(np.ascontiguousarray(observation[name]).tobytes())
    return digest.hexdigest()


def test_the_images_of_a_fixed_trial_are_the_same_on_every_machine():
    assert trial_hash() == TRIAL_HASH


@pytest.mark.slow
def test_a_processor_without_modern_vector_instructions_gives_the_same_images():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_determinism as t; print(t.trial_hash())"
    # The same cache is safe: numba keeps code compiled for different processors apart.
    old_processor = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    run = subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(__file__)],
        env={**os.environ, **old_processor},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split()[-1] == TRIAL_HASH
