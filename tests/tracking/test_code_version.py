"""The version of the code that a run is tagged with."""

import subprocess

import pytest

from memo_lightning.tracking.code_version import code_tags
from memo_lightning.version import __version__


@pytest.fixture
def checkout(tmp_path):
    for name in ("src/code.py", "conf/train.yaml", "results/old.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    return tmp_path


def test_a_run_is_tagged_with_the_commit_of_its_code(checkout):
    head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert code_tags(checkout)["code"] == head.stdout.strip()


@pytest.mark.parametrize(
    ("name", "is_changed"),
    [("src/code.py", True), ("src/new.py", True), ("conf/train.yaml", True), ("results/new.json", False)],
)
def test_changed_code_and_configuration_are_told_and_results_are_not(name, is_changed, checkout):
    (checkout / name).write_text("2")
    assert code_tags(checkout)["code"].endswith("+changes") == is_changed


def test_without_a_checkout_it_is_the_version_of_the_package(tmp_path):
    assert code_tags(tmp_path) == {"code": f"memo-lightning {__version__}"}
