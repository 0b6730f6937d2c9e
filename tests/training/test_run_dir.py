"""Run folders: their names, and that no two commands get the same folder."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memo_lightning.cli.main import main
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.training.run_dir import chosen_run_dir, claimed_run_dir, new_run_dir, write_config
from tiny import TINY_TRAINING


@pytest.fixture
def one_second(monkeypatch):
    """Make everything happen within one second."""
    monkeypatch.setattr("memo_lightning.training.run_dir.time.strftime", lambda _: "20260102-030405")


def test_commands_of_one_second_get_folders_of_their_own(in_tmp_dir, one_second):
    with ThreadPoolExecutor(8) as commands:
        folders = list(commands.map(lambda _: new_run_dir("memo"), range(32)))
    assert len(set(folders)) == 32
    assert all(folder.is_dir() for folder in folders)
    assert Path("runs/memo-20260102-030405") in folders


def test_a_run_is_called_by_what_it_does_and_the_time_comes_last(in_tmp_dir, one_second):
    for overrides, name in {
        "seed=3": "memo-dark_key_to_door-s3",
        "baseline=lstm env=gymnasium env.id=ALE/Pong-v5": "lstm-ALE-Pong-v5-s0",
        "baseline=custom baseline.target=my.module.Mine env=custom env.target=my.tasks:make": "Mine-my.tasks-make-s0",
    }.items():
        with chosen_run_dir(compose_config("train", overrides.split())) as folder:
            assert folder == Path(f"runs/{name}-20260102-030405")


def test_a_default_run_has_one_name_in_its_folder_its_metrics_and_mlflow(in_tmp_dir):
    from mlflow import MlflowClient

    assert main(["train", *TINY_TRAINING, "total_frames=320"]) == 0
    (folder,) = Path("runs").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["baseline"] == "memo"
    run = MlflowClient(f"sqlite:///{in_tmp_dir}/mlflow.db").get_run(metrics["mlflow_run_id"])
    assert run.info.run_name == folder.name
    assert folder.name.startswith("memo-dark_key_to_door-s0-2")


def test_a_run_that_cannot_begin_leaves_no_folder(in_tmp_dir):
    assert main(["train", *TINY_TRAINING, "algorithm.gamma=2"]) == 2
    assert not list(in_tmp_dir.iterdir())
    Path("runs").mkdir()
    assert main(["train", *TINY_TRAINING, "algorithm.gamma=2"]) == 2
    assert not list(Path("runs").iterdir()), "what was there before stays"


@pytest.mark.parametrize("left", ["checkpoints/last.ckpt", "notes.txt", None])
@pytest.mark.parametrize("name", ["named/deep", None])
def test_a_run_that_ends_before_it_has_a_checkpoint_leaves_its_folder_only_with_what_others_put_there(
    in_tmp_dir, left, name
):
    config = compose_config("train", [f"run_dir={name}"] if name else [])
    with chosen_run_dir(config) as folder, claimed_run_dir(folder):
        write_config(config, folder)
        if left:
            (folder / left).write_text("")
    folder = folder.absolute()
    files = {str(path.relative_to(folder)) for path in in_tmp_dir.rglob("*") if path.is_file()}
    assert files == ({"config.yaml", left} if left else set())
    assert left or not list(in_tmp_dir.iterdir())


def test_a_folder_that_was_there_before_stays_and_so_does_its_configuration(in_tmp_dir):
    config, folder = compose_config("train", ["run_dir=there"]), Path("there")
    folder.mkdir()
    with claimed_run_dir(folder):
        write_config(config, folder)
    assert not list(folder.iterdir())
    write_config(config, folder)
    with claimed_run_dir(folder):
        write_config(config, folder)
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_of_a_run_makes_the_folder(in_tmp_dir, monkeypatch, rank):
    monkeypatch.setattr("memo_lightning.training.run_dir.rank_zero_only.rank", rank)
    with chosen_run_dir(compose_config("train")) as folder:
        assert folder.exists() == (rank == 0)


def test_a_place_that_cannot_be_written_is_one_line(in_tmp_dir):
    Path("runs").write_text("a file")
    with pytest.raises(UserError, match=f"run_dir=null: {os.getcwd()}/runs cannot be written .*run_dir=PATH"):
        new_run_dir("memo")
