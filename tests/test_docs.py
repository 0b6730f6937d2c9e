"""The documentation: it builds without a warning, and what it tells people to type works."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from memo_lightning.cli.main import VERBS, main
from memo_lightning.config import compose_config

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Added behind a command as it is written, so that it is over soon. Everything else about it stays.
SMALL_TRAINING = [
    "total_frames=640",
    "env.trial_length=40",
    "env.episode_length=10",
    "collector.n_envs=8",
    "model.d_model=16",
    "model.d_ff=32",
    "model.segment_length=10",
]


def commands():
    """Every `memo` command of the texts: in code blocks, and in tables and sentences."""
    found = []
    for path in TEXTS:
        text = path.read_text()
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip().startswith("memo ")]
        inline = re.findall(r"`(memo [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        found += [(path.name, " ".join(command.split())) for command in [*lines, *inline]]
    return sorted(set(found))


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda value: value.replace("memo ", ""))
def test_commands_name_verbs_and_settings_that_exist(page, command):
    _, verb, *words = shlex.split(command.split("#")[0])
    if verb.isupper():  # VERB stands for any
        return
    assert verb in VERBS
    overrides = [word for word in words if "=" in word and not word.startswith(("resume=", "experiment="))]
    if verb == "sweep":
        study = set(compose_config("sweep"))
        overrides = [word for word in overrides if word.partition("=")[0] not in study]
        compose_config("train", overrides)
    elif verb != "completion":
        compose_config(verb, overrides)


@pytest.mark.slow
def test_the_first_commands_of_the_documentation_run_as_written(in_tmp_dir, capsys):
    """The block on the first page, in order, with the run's own folder for RUN."""
    (block,) = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/index.md").read_text(), re.DOTALL)
    run_dir = ""
    for line in block.splitlines():
        _, verb, *words = shlex.split(line.replace("RUN", run_dir))
        if verb == "ui":  # serves until it is ended; tests of its own look at its pages
            continue
        extra = {"train": SMALL_TRAINING, "evaluate": ["n_trials=6", "n_envs=4"]}.get(verb, [])
        assert main([verb, *words, *extra]) == 0, line
        if verb == "train":
            (run,) = (in_tmp_dir / "runs").iterdir()
            run_dir = str(run)
    said = capsys.readouterr().out
    assert f"memo evaluate checkpoint={Path(run_dir).relative_to(in_tmp_dir)}/checkpoints/last.ckpt" in said
    assert main(["compare"]) == 0
    assert main(["register", f"run_dir={run_dir}", "name=memo-dark-key-to-door"]) == 0
    assert main(["evaluate", "checkpoint=models:/memo-dark-key-to-door/1", "n_trials=6", "n_envs=4"]) == 0


def test_the_yaml_of_a_study_is_a_study(tmp_path):
    from memo_lightning.sweeps.study_file import read_study

    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/studies.md").read_text(), re.DOTALL)
    (tmp_path / "example.yaml").write_text(block)
    spec = read_study(str(tmp_path / "example.yaml"), [])
    assert spec.settings["n_trials"] == yaml.safe_load(block)["n_trials"] == 40


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "site/reference/configuration/index.html").read_text()
    for group in (path for path in (ROOT / "conf").iterdir() if path.is_dir()):
        for option in group.glob("*.yaml"):
            assert f"{group.name}={option.stem}" in page
    assert "state_nbytes" in (tmp_path / "site/reference/models/index.html").read_text()
