"""The documentation: it builds without a warning, and what it tells people to type works."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from memo_lightning.cli.main import VERBS, main
from memo_lightning.config import compose_config, config_dir

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Added behind a command as it is written, so that it is over soon. Everything else about it stays.
SMALL_TRAINING = [
    "total_frames=1280",
    "env.trial_length=40",
    "env.episode_length=10",
    "collector.n_envs=16",
    "model.d_model=16",
    "model.d_ff=32",
    "model.segment_length=10",
]


def commands():
    """Every `memo` command of the texts: in code blocks, and in tables and sentences."""
    found = []
    for path in TEXTS:
        text = path.read_text().replace("\\\n", " ")  # lines that go on
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
    overrides = [
        word for word in words if "=" in word and not word.startswith("resume=") and not word.endswith(".yaml")
    ]
    if verb == "sweep":
        study = set(compose_config("sweep"))
        overrides = [word for word in overrides if word.partition("=")[0] not in study]
        compose_config("train", overrides)
    elif verb != "completion":  # a verb without a file of its own takes the settings of a training
        compose_config(verb if (config_dir() / f"{verb}.yaml").is_file() else "train", overrides)


# What is added behind a command so that it is soon over; everything else about it stays as it is written.
SMALL = {
    "train": SMALL_TRAINING,
    "evaluate": ["n_trials=4", "n_envs=4"],
    "sweep": [*SMALL_TRAINING, "n_trials=1"],
}
GUIDE = ("README.md", "index.md", "concepts.md", "studies.md", "tracking.md", "notebooks.md")
# Other environments, several processes and rendering: commands with tests of their own, beside their code.
_ELSEWHERE = re.compile(r" env=| experiment=\w+( |$)| trainer\.| collector=| render=")
# The order makes what later commands need. `ui` and servers run until they are ended, and have tests of their own.
ORDER = ("doctor", "train", "register", "evaluate", "sweep", "compare", "completion")


@pytest.mark.slow
def test_commands_of_the_guide_run_as_written(in_tmp_dir, monkeypatch, capsys):
    """Every command runs, with what its placeholders stand for: a run, and a memory of one's own."""
    (in_tmp_dir / "my").mkdir()
    (in_tmp_dir / "my/module.py").write_text(
        "from memo_lightning.models import GRU\n\n\nclass MyModel(GRU):\n    def __init__(self, d_model):\n"
        "        super().__init__(d_model=d_model, n_layers=1)\n"
    )
    monkeypatch.syspath_prepend(in_tmp_dir)
    assert main(["train", *SMALL_TRAINING, "total_frames=640", "run_dir=runs/NAME"]) == 0
    written = {command for page, command in commands() if page in GUIDE and "http://" not in command}
    written -= {"memo evaluate"}  # the verb's name, in a sentence
    written = {command for command in written if not _ELSEWHERE.search(command)}
    by_verb = {
        verb: sorted(c for c in written if shlex.split(c)[1] == verb and "experiment=" not in c) for verb in ORDER
    }
    todo = [command for verb in ORDER for command in by_verb[verb]]
    todo += sorted(command for command in written if "experiment=" in command)  # of a study that ran before
    assert len(todo) > 15
    for command in todo:
        _, verb, *words = shlex.split(command.split("#")[0])
        words = [_stand_in(word, in_tmp_dir) for word in words]
        assert main([verb, *words, *SMALL.get(verb, [])]) == 0, f"{command}: {capsys.readouterr().err[-500:]}"


def _stand_in(word, folder):
    """Return what a placeholder stands for here."""
    if word.startswith("experiment="):
        (file,) = (folder / "studies/ppo/experiment").glob("*.yaml")
        return f"experiment={file}"
    if word.startswith("study="):
        return "study=ppo"
    return word.replace("checkpoint=...", "checkpoint=runs/NAME/checkpoints/last.ckpt").replace("RUN", "runs/NAME")


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
