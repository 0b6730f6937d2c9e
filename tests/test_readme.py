"""The README's example and commands are those that work."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from memo_lightning.cli.main import VERBS
from memo_lightning.config import compose_config

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_examples_run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`memo ([^`]*)`", README))))
def test_commands_name_verbs_and_settings_that_exist(command):
    verb, *overrides = command.split()
    assert verb in VERBS
    overrides = [o for o in overrides if "=" in o and not o.startswith("resume=")]
    compose_config(verb, overrides)
