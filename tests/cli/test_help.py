"""``--help`` and ``--version``: all settings with the comments that explain them, within 80 columns."""

import re

import pytest
import yaml

from memo_lightning import __version__
from memo_lightning.cli.main import VERBS, main
from memo_lightning.config import config_dir, group_options
from memo_lightning.sweeps.study_file import shipped_studies


def help_of(*arguments, capsys):
    assert main([*arguments, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_fits_eighty_columns(verb, capsys):
    text = help_of(verb, capsys=capsys)
    assert max(map(len, text.splitlines())) < 80, max(text.splitlines(), key=len)


@pytest.mark.parametrize("overrides", [[], ["env=ext_objnav"], ["env=gymnasium", "baseline=retrieval"]])
def test_settings_come_with_their_comments_and_can_be_read_back(overrides, capsys):
    text = help_of("train", *overrides, capsys=capsys)
    assert max(map(len, text.splitlines())) < 80
    _, _, settings = text.partition("settings (override as key=value):\n")
    config = yaml.safe_load(settings)
    assert config["model"]["segment_length"] == 50
    words = " ".join(re.sub(r"\s*#", "", settings).split())
    for file in ("algorithm/ppo", "trainer/cpu"):
        for comment in re.findall(r"^ *\w+:.*?  # *(.*)$", (config_dir() / f"{file}.yaml").read_text(), re.MULTILINE):
            assert comment.split()[0] in words


def test_comments_of_inherited_options_are_shown(capsys):
    text = help_of("train", "env=dark_key_to_door_9x9", capsys=capsys)
    assert re.search(r"room_size: 9", text)
    assert re.search(r"split: train +# tasks to draw from", text)


def test_what_ships_is_listed_with_a_line_each(capsys):
    experiments = help_of("train", capsys=capsys)
    for name in group_options("experiment"):
        (line,) = re.findall(rf"^  {name} +(\S.*)$", experiments, re.MULTILINE)
        assert len(line) > 10
    studies = help_of("sweep", capsys=capsys)
    for file in shipped_studies().glob("*.yaml"):
        assert re.search(rf"^  {file.stem} +\S+ \S+", studies, re.MULTILINE)


@pytest.mark.parametrize("arguments", [["--version"], ["-V"]])
def test_the_version(arguments, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"memo-lightning {__version__}\n"


@pytest.mark.parametrize("arguments", [["reproduce", "many_rooms"], ["sweep", "ppo", "total_frames=1000"]])
def test_help_comes_whatever_was_typed_before(arguments, capsys):
    assert main([*arguments, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: memo {arguments[0]} ")
