"""Fixtures: policies to serve, and a server."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "policies"))

from test_agent import make_toy, save_policy

from servers import serving


@pytest.fixture(scope="session")
def policies(tmp_path_factory):
    """Return a folder with checkpoints of untrained policies, named after their observations."""
    folder = tmp_path_factory.mktemp("policies")
    for name, memory in (
        ("nested", "memo"),
        ("masked", "lstm"),
        ("discrete with start", "memo"),
        ("image, channels first", "no_iea"),
    ):
        save_policy(folder / f"{name.partition(' ')[0].strip(',')}.ckpt", make_toy(name)[0], memory)
    return folder


@pytest.fixture(scope="module")
def server(policies):
    """Yield a server shared by the tests of a file."""
    with serving(policies, "checkpoint=discrete.ckpt") as running:
        yield running
