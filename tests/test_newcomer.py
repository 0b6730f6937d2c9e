"""A newcomer with the installed wheel and an empty folder follows the pages on custom memories and environments."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tiny import TINY_TRAINING

ROOT = Path(__file__).parents[1]
# Appended to the commands of a page to make them short; otherwise they run as written.
SMALL = {
    "own-memory": {"train": [*TINY_TRAINING, "total_frames=320"]},
    "own-environment": {
        "check-env": ["collector.n_envs=4", "algorithm.n_minibatches=2"],
        "train": [
            *("total_frames=1", "collector.n_envs=4", "algorithm.n_minibatches=2"),
            *("model.d_model=16", "model.d_ff=32"),
        ],
    },
}
# Runs the commands one after the other in a single process, because the imports take seconds.
TYPE = """
import json, sys
import memo_lightning
from memo_lightning.cli.main import main
print(memo_lightning.__file__)
for arguments in json.loads(sys.argv[1]):
    if main(arguments):
        sys.exit(f"failed: {arguments}")
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return the Python of an environment with only the wheel; its dependencies come from this environment."""
    pytest.importorskip("hatchling", reason="hatchling, of the dev extra, is not installed")
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    found = folder / "venv/bin/python"
    (wheel,) = folder.glob("memo_lightning-*.whl")
    install = [*pip, "--python", str(found), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    (own,) = (folder / "venv").glob("lib/python*/site-packages")
    (own / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # searched last
    assert (folder / "venv/bin/memo").is_file()
    return found


def steps_of(page):
    """Return the steps of a page in order: files to save, variables to export, and commands."""
    files, variables, commands = {}, {}, []
    for before, language, block in re.findall(r"([^\n]*)\n\n```(\w+)\n(.*?)```", page, re.DOTALL):
        name = re.match(r"Save this as `([^`]+)`", before)
        if name:
            files[name[1]] = block
        for line in block.splitlines() if language == "bash" else ():
            words = shlex.split(line)
            if words[0] == "export":
                variables.update([words[1].split("=", 1)])
            else:
                assert words[0] == "memo", line
                commands.append(words[1:])
    return files, variables, commands


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_page_works_from_the_wheel_in_an_empty_folder(name, python, tmp_path):
    files, variables, commands = steps_of((ROOT / f"docs/how-to/{name}.md").read_text())
    assert files
    assert len(commands) >= 4
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    if importlib.util.find_spec("minigrid") is None:
        commands = [words for words in commands if "minigrid" not in " ".join(words)]
    typed = [[*words, *SMALL[name].get(words[0], [])] for words in commands]
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), **variables}
    command = [python, "-c", TYPE, json.dumps(typed)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{result.stdout[-2000:]}{result.stderr[-2000:]}"
    assert Path(result.stdout.splitlines()[0]).is_relative_to(python.parents[1])
    assert "WRONG" not in result.stdout
    assert len([*(tmp_path / "runs").glob("*/metrics.json")]) == sum(words[0] == "train" for words in commands)


@pytest.mark.slow
def test_the_policies_that_ship_are_in_the_wheel(python, tmp_path):
    program = "import memo_lightning; agent = memo_lightning.load('dark-key-to-door'); print(agent.training['frames'])"
    result = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 0
