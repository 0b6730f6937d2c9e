"""Fixtures for tests of the simulator."""

import pytest

from memo_lightning.envs.habitat import import_habitat
from memo_lightning.envs.habitat.config import make_config


@pytest.fixture(scope="module")
def env():
    """Return a habitat environment with colour, depth and semantic images, in its first episode."""
    with import_habitat().Env(make_config(sensors=("rgb", "depth", "semantic"), split="held_out")) as env:
        env.reset()
        yield env
