"""memo doctor reports what is installed and what is wrong."""

import importlib.metadata
import os
import sqlite3
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

from memo_lightning.cli.main import main


def diagnose(capsys, *overrides):
    status = main(["doctor", *overrides])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_machine_in_order_is_told_what_it_has(in_tmp_dir, capsys):
    status, said, _ = diagnose(capsys)
    assert status == 0
    wanted = ("ok     python", "torch 2.", "cores", "attention, cpu", "habitat-lab", "[tasks]", "ffmpeg", "chromium")
    for words in (*wanted, "postgres", "next: memo train"):
        assert words in said
    assert "none   mlflow           sqlite:///mlflow.db: does not exist yet" in said
    status, said, _ = diagnose(capsys, "storage=studies/journal.log")
    assert "studies/journal.log: does not exist yet" in said
    assert list(in_tmp_dir.iterdir()) == [], "looking leaves nothing behind"


def test_what_is_wrong_is_named_and_ends_in_failure(in_tmp_dir, capsys):
    with sqlite3.connect(in_tmp_dir / "mlflow.db") as connection:
        connection.execute("CREATE TABLE something_else (x)")
    status, said, error = diagnose(capsys, "storage=postgresql://me:secret@127.0.0.1:1/x")
    assert status == 2
    assert "WRONG  mlflow" in said
    assert "WRONG  studies" in said
    assert error == "memo: doctor: something is wrong with mlflow, studies\n"
    assert "secret" not in said


def test_a_python_that_the_package_does_not_allow_is_wrong(in_tmp_dir, capsys, monkeypatch):
    monkeypatch.setattr("platform.python_version", lambda: "3.10.4")
    status, said, _ = diagnose(capsys)
    assert status == 2
    told = next(line for line in said.splitlines() if line.startswith("WRONG  python"))
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(told.partition("3.10.4: must be ")[2]) == SpecifierSet(project["requires-python"])


def test_packages_that_do_not_fit_are_named(in_tmp_dir, capsys, monkeypatch):
    needs = ["torch>=99", "no-such-package>=1", "pytest>=999; extra == 'dev'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needs)
    status, said, _ = diagnose(capsys)
    assert status == 2
    assert "must be >=99" in said
    assert "pip install 'no-such-package>=1'" in said
    assert ">=999" not in said, "an extra that nobody asked for"


def test_a_missing_package_is_named_instead_of_ending_the_diagnosis(in_tmp_dir, capsys, monkeypatch):
    version = importlib.metadata.version

    def without_optuna(name):
        if name == "optuna":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", without_optuna)
    status, said, error = diagnose(capsys)
    assert status == 2
    assert "WRONG  optuna           is missing; pip install 'optuna" in said
    assert "mlflow" in said.splitlines()[-2], "it went on to the end"
    assert error == "memo: doctor: something is wrong with optuna\n"


def test_a_habitat_sim_that_cannot_be_imported_is_wrong(in_tmp_dir, capsys, monkeypatch):
    (in_tmp_dir / "habitat_sim.py").write_text("raise ImportError('libEGL.so.1: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(in_tmp_dir)
    monkeypatch.setenv("PYTHONPATH", str(in_tmp_dir), prepend=os.pathsep)
    status, said, _ = diagnose(capsys)
    assert status == 2
    assert "WRONG  habitat-sim      cannot be imported (ImportError: libEGL.so.1" in said
