"""The clients of the how-to run as written, except for the port."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from test_agent import save_policy

from memo_lightning.envs.gymnasium import GymnasiumEnv
from servers import serving

PAGE = (Path(__file__).parents[2] / "docs/how-to/serve.md").read_text()
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cart_pole(tmp_path_factory):
    """Yield a server with a policy for CartPole."""
    folder = tmp_path_factory.mktemp("cart_pole")
    env = GymnasiumEnv(n_envs=1, make=lambda: gymnasium.make("CartPole-v1"), trial_length=500)
    save_policy(folder / "x.ckpt", env)
    with serving(folder, "checkpoint=x.ckpt") as server:
        yield server


def blocks(language, server):
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return [code.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}") for code in found]


def test_python(cart_pole):
    client, packed = blocks("python", cart_pole)
    assert len([line for line in client.splitlines() if line.strip()]) <= 16
    result = subprocess.run([sys.executable, "-c", client], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert 8 < float(result.stdout) <= 500
    result = subprocess.run([sys.executable, "-c", packed], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert sum(map(float, re.findall(r"[\d.e-]+", result.stdout))) == pytest.approx(1)
    assert cart_pole.metrics()["memo_sessions"] == 0, "they have ended with their connections"


def test_javascript(cart_pole, tmp_path):
    node = shutil.which("node")
    if node is None or int(subprocess.check_output([node, "--version"], text=True)[1:].split(".")[0]) < 18:
        pytest.skip("no node of version 18 or later, whose fetch the client uses")
    (client,) = blocks("javascript", cart_pole)
    (tmp_path / "client.mjs").write_text(client)
    result = subprocess.run([node, tmp_path / "client.mjs"], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"([01]\n){10}", result.stdout)
    assert cart_pole.metrics()["memo_sessions"] == 0, "it has deleted its session"
    (tmp_path / "bad.mjs").write_text(client.replace("0.04]", "0.04, 0.05]"))
    result = subprocess.run([node, tmp_path / "bad.mjs"], capture_output=True, text=True, check=False, timeout=120)
    assert "Error: observation 'observation' has shape (5,); its space says (4,)" in result.stderr
