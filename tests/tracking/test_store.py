"""Stores that several processes write to, that do not answer, or that are invalid."""

import json
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from memo_lightning.cli.main import main
from memo_lightning.tracking import code_tags
from memo_lightning.tracking.run_logger import RunLogger
from memo_lightning.tracking.store import experiment_id_of, open_store, prepare_store
from tiny import FEW_UPDATES, TINY_TRAINING

TINY = [
    *TINY_TRAINING,
    *FEW_UPDATES,
    "total_frames=640",
]


def write(writer: int) -> None:
    """Log a run as a training does."""
    logger = RunLogger(
        tracking_uri="sqlite:///mlflow.db", experiment_name="crowd", run_dir=f"{writer}", tags={"writer": str(writer)}
    )
    for step in range(40):
        logger.log_metrics({"a": float(step), "b": -float(step)}, step)
    logger.finalize("success")


@pytest.mark.slow
def test_four_processes_make_one_store_and_lose_nothing(in_tmp_dir, capfd):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["memo_lightning.tracking"])
    writers = [context.Process(target=write, args=(writer,)) for writer in range(4)]
    for writer in writers:
        (in_tmp_dir / str(writers.index(writer))).mkdir()
        writer.start()
    for writer in writers:
        writer.join(300)
        assert writer.exitcode == 0
    assert "locked" not in capfd.readouterr().err
    client = MlflowClient(f"sqlite:///{in_tmp_dir}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("crowd").experiment_id])
    assert {run.data.tags["writer"] for run in runs} == {"0", "1", "2", "3"}
    for run in runs:
        assert run.info.status == "FINISHED"
        for name, sign in (("a", 1), ("b", -1)):
            history = client.get_metric_history(run.info.run_id, name)
            assert [(point.step, point.value) for point in history] == [(k, sign * k) for k in range(40)]


def test_a_run_is_tagged_with_the_code_it_was_made_with(in_tmp_dir):
    assert main(["train", *TINY, "run_dir=run"]) == 0
    run_id = json.loads((in_tmp_dir / "run" / "metrics.json").read_text())["mlflow_run_id"]
    tags = MlflowClient(f"sqlite:///{in_tmp_dir}/mlflow.db").get_run(run_id).data.tags
    assert tags["code"] == code_tags()["code"]
    if "mlflow.source.git.commit" in code_tags():  # in a checkout, not an installed package
        assert tags["code"].startswith(tags["mlflow.source.git.commit"])


def test_a_server_that_does_not_answer_is_one_line_and_soon(in_tmp_dir, capsys):
    begin = time.monotonic()
    assert main(["compare", "tracking_uri=http://127.0.0.1:1"]) == 2
    assert "tracking_uri='http://127.0.0.1:1': cannot be used" in capsys.readouterr().err
    assert main(["doctor", "tracking_uri=http://127.0.0.1:1"]) == 2
    assert "WRONG  mlflow           tracking_uri='http://127.0.0.1:1': cannot be used" in capsys.readouterr().out
    assert time.monotonic() - begin < 60, "MLflow alone tries for minutes"


_READERS = (["compare"], ["evaluate", "checkpoint=models:/x/1"], ["ui"])


def only_line(capsys):
    """Return what a command has printed on stderr after its announcement, which must be one line."""
    *_, last = said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if not line.startswith(("comparing", "study "))]) == 1, said
    return last


def test_a_database_server_that_is_down_is_one_line_within_seconds(in_tmp_dir, capsys):
    address = "postgresql://me:secret@127.0.0.1:1/x"
    begin = time.monotonic()
    for words in _READERS:
        assert main([*words, f"tracking_uri={address}"]) == 2
        assert "tracking_uri='postgresql://me:***@127.0.0.1:1/x': cannot be used (" in only_line(capsys)
    assert main(["train", *TINY, "run_dir=run", f"logger.tracking_uri={address}"]) == 2
    assert "logger.tracking_uri='postgresql://me:***@127.0.0.1:1/x': cannot be used (" in only_line(capsys)
    assert time.monotonic() - begin < 30, "MLflow alone tries for a hundred seconds, each time"


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("here.db", "set tracking_uri=sqlite:///here.db"),
        ("sqlite://here.db", "set tracking_uri=sqlite:///here.db"),
        ("mlruns", "set tracking_uri=sqlite:///mlflow.db"),
        ("localhost:5000", "set tracking_uri=http://localhost:5000"),
        ("foo://x", "must be sqlite:///FILE, http://HOST:PORT or postgresql://USER@HOST/DATABASE"),
    ],
)
def test_an_address_that_no_store_has_is_one_line_with_the_remedy(in_tmp_dir, capsys, address, remedy):
    (in_tmp_dir / "mlruns").mkdir()
    for words in _READERS:
        assert main([*words, f"tracking_uri={address}"]) == 2
        assert (line := only_line(capsys)).startswith(f"memo: tracking_uri='{address}': cannot be used; must be ")
        assert line.endswith(remedy)
    assert main(["train", *TINY, "run_dir=run", f"logger.tracking_uri={address}"]) == 2
    assert only_line(capsys).endswith(remedy.replace("set tracking_uri", "set logger.tracking_uri"))


def test_a_store_that_is_no_database_is_one_line(in_tmp_dir, capsys):
    (in_tmp_dir / "mlflow.db").write_text("this is no database, and it is longer than a header")
    assert main(["train", *TINY, "run_dir=run"]) == 2
    assert "logger.tracking_uri" in capsys.readouterr().err
    assert not (in_tmp_dir / "run").exists()


def test_what_cannot_be_registered_is_one_line(in_tmp_dir, capsys):
    for arguments, message in {
        ("run_dir=run",): "name=None: must be the name of a model",
        ("run_dir=run", "name=x"): "run_dir=run: must be the folder of a finished run",
    }.items():
        assert main(["register", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a project folder with two runs, one of them evaluated and registered."""
    folder = tmp_path_factory.mktemp("made") / "project"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed in (0, 1):
            assert main(["train", *TINY, f"seed={seed}", f"run_dir=runs/{seed}"]) == 0
        assert main(["register", "run_dir=runs/0", 'name="it\'s 2024"']) == 0
    return folder


def test_a_folder_with_parts_of_a_run_cannot_be_registered_and_a_model_needs_a_version(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert main(["register", "run_dir=runs/0", "name=ok"]) == 0
    for missing, remedy in {
        "config.yaml": None,
        "metrics.json": "run_dir=part: must be the folder of a finished run",
        "checkpoints/last.ckpt": "checkpoint=part/checkpoints/last.ckpt: no such file",
    }.items():
        shutil.copytree("runs/0", "part")
        Path("part", missing).unlink()
        capsys.readouterr()
        assert main(["register", "run_dir=part", "name=ok"]) == (2 if remedy else 0)
        assert (remedy or "") in capsys.readouterr().err
        shutil.rmtree("part")
    newest = "must be models:/NAME/VERSION or models:/NAME@ALIAS; set checkpoint=models:/ok/2"
    for wrong, message in {
        "ok": newest,
        "other": "models:/NAME@ALIAS",
        "ok/one": "models:/NAME@ALIAS",
        "": "ALIAS",
    }.items():
        assert main(["evaluate", f"checkpoint=models:/{wrong}"]) == 2
        assert (line := only_line(capsys)).startswith(f"memo: checkpoint=models:/{wrong}: must be models:/NAME/VERSION")
        assert line.endswith(message)


def test_a_folder_whose_files_are_broken_is_no_run(in_tmp_dir, capsys):
    (in_tmp_dir / "run/checkpoints").mkdir(parents=True)
    (in_tmp_dir / "run/checkpoints/last.ckpt").touch()
    for content in ("[]", "{", "{}"):
        (in_tmp_dir / "run/metrics.json").write_text(content)
        assert main(["register", "run_dir=run", "name=x"]) == 2
        assert only_line(capsys).endswith("run_dir=run: must be the folder of a finished run of memo train")
    (in_tmp_dir / "run/config.yaml").write_text("env: [")
    assert main(["train", "resume=run"]) == 2
    assert "run/config.yaml: cannot be read as YAML" in only_line(capsys)


@pytest.fixture
def moved(project, tmp_path, monkeypatch):
    """Move the project to another folder, so that nothing is left in the old place."""
    here = tmp_path / "elsewhere" / "project"
    shutil.copytree(project, here)
    away = project.rename(project.with_name("away"))
    monkeypatch.chdir(here)
    _artifact_repos_cache.clear()  # a real command is a new process without this cache
    yield here
    assert not project.exists(), "the old folder was made anew"
    away.rename(project)


def run_ids(folder):
    return {
        path.parent.name: json.loads(path.read_text())["mlflow_run_id"] for path in folder.glob("runs/*/metrics.json")
    }


def test_after_a_move_runs_are_compared_evaluated_and_resumed_where_the_store_is_now(moved, capsys):
    client, ids = MlflowClient(f"sqlite:///{moved}/mlflow.db"), run_ids(moved)
    assert main(["compare"]) == 0
    (group,) = json.loads((moved / "comparison/comparison.json").read_text())
    assert group["seeds"] == [0, 1]

    assert main(["evaluate", "checkpoint=runs/0", "n_trials=4", "n_envs=4"]) == 0
    assert "not logged" not in capsys.readouterr().err
    folder = moved / f"mlruns/memo-lightning/{ids['0']}/artifacts"
    assert (folder / "evaluation/held_out_40_steps/evaluation.json").is_file()
    assert main(["evaluate", 'checkpoint="models:/it\'s 2024/1"', "n_trials=4", "n_envs=4", "run_dir=registered"]) == 0

    assert main(["train", "resume=runs/1", "total_frames=960"]) == 0
    steps = [point.step for point in client.get_metric_history(ids["1"], "train/return_per_trial")]
    assert steps == [320, 640, 960]
    metrics = json.loads((moved / f"mlruns/memo-lightning/{ids['1']}/artifacts/metrics.json").read_text())
    assert metrics["frames"] == 960


def test_a_run_is_resumed_in_a_moved_project_from_anywhere(moved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", f"resume={moved}/runs/0", "total_frames=960"]) == 0
    assert not (tmp_path / "mlflow.db").exists()
    history = MlflowClient(f"sqlite:///{moved}/mlflow.db").get_metric_history(run_ids(moved)["0"], "update/kl")
    assert history[-1].step == 960


def test_without_the_files_of_its_runs_a_store_is_one_line(moved, capsys):
    shutil.rmtree("mlruns")
    assert main(["compare"]) == 2
    error = capsys.readouterr().err
    assert "no finished run at all in experiment memo-lightning; left out: 2 runs without metrics.json" in error
    assert error.count("\n") == 1
    assert not (moved / "comparison").exists()


def test_without_its_store_a_run_says_how_to_go_on(moved, capsys):
    for file in moved.glob("mlflow.db*"):
        file.unlink()
    assert main(["train", "resume=runs/0", "total_frames=960"]) == 2
    error = capsys.readouterr().err
    assert "in the folders above it or the current folder; name its store with logger.tracking_uri=" in error
    assert main(["evaluate", "checkpoint=runs/0", "n_trials=4", "n_envs=4"]) == 0
    assert f"not logged to MLflow: its run {run_ids(moved)['0']} is not in" in capsys.readouterr().err
    assert main(["register", "run_dir=runs/0", "name=x"]) == 2
    assert "run_dir=runs/0: its run" in capsys.readouterr().err
    for command in (["compare"], ["evaluate", "checkpoint=models:/x/1"], ["ui"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "tracking_uri=sqlite:///" in error
        assert "no such store" in error
    assert not list(moved.glob("mlflow.db*")), "looking for a store does not make one"
    assert main(["train", "resume=runs/0", "total_frames=960", "logger=null"]) == 0, "the remedy"


def test_runs_are_beside_the_store_and_not_where_the_command_runs(in_tmp_dir, monkeypatch):
    (in_tmp_dir / "here").mkdir()
    monkeypatch.chdir("here")
    store = f"logger.tracking_uri=sqlite:///{in_tmp_dir}/there/mlflow.db"
    assert main(["train", *TINY, store, "run_dir=run", "logger.experiment_name='a/b, c'"]) == 0
    assert not (in_tmp_dir / "here/mlruns").exists()
    run_id = json.loads((in_tmp_dir / "here/run/metrics.json").read_text())["mlflow_run_id"]
    assert (in_tmp_dir / f"there/mlruns/a-b-c/{run_id}/artifacts/metrics.json").is_file()


def test_other_places_for_artifacts_are_not_touched(in_tmp_dir):
    uri = f"sqlite:///{in_tmp_dir}/mlflow.db"
    prepare_store(uri)
    client = MlflowClient(uri)
    places = {"bucket": "s3://bucket/mlruns/1", "chosen": "/nowhere/chosen/1", "server": "mlflow-artifacts:/1"}
    for name, place in places.items():
        client.create_experiment(name, place)
    client.create_experiment("moved", "/nowhere/mlruns/moved")
    open_store(uri, "tracking_uri")
    for name, place in {**places, "moved": f"{in_tmp_dir}/mlruns/moved"}.items():
        assert MlflowClient(uri).get_experiment_by_name(name).artifact_location == place


def test_a_relative_store_is_that_of_the_directory_of_now(in_tmp_dir, monkeypatch):
    for folder in ("first", "second"):
        (in_tmp_dir / folder).mkdir()
        monkeypatch.chdir(in_tmp_dir / folder)
        experiment_id_of("sqlite:///mlflow.db", folder)
        names = {
            experiment.name for experiment in MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db").search_experiments()
        }
        assert names == {folder, "Default"}


def restore(error):
    """Run the command of MLflow that a message names."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(shlex.split(error.split("`")[1]), env={**os.environ, "PATH": path}, check=True)


def test_what_was_deleted_in_mlflow_is_restored_by_the_command_that_is_named(moved, capsys):
    client = MlflowClient(f"sqlite:///{moved}/mlflow.db")
    client.delete_experiment(client.get_experiment_by_name("memo-lightning").experiment_id)
    for setting, command in {
        "logger.experiment_name": ["train", *TINY, "run_dir=new"],
        "experiment_name": ["compare"],
    }.items():
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"{setting}=memo-lightning: was deleted in MLflow; restore it with `" in error
        assert f"or choose another with {setting}=NAME" in error
        assert error.count("\n") == 1
    assert not (moved / "new").exists()
    assert main(["train", "resume=runs/0", "total_frames=960"]) == 2
    error = capsys.readouterr().err
    assert "its experiment memo-lightning was deleted in MLflow" in error
    restore(error)
    assert main(["compare"]) == 0

    client.delete_run(run_ids(moved)["0"])
    assert main(["evaluate", "checkpoint=runs/0", "n_trials=4", "n_envs=4"]) == 0
    assert "not logged to MLflow: run" in capsys.readouterr().err
    assert main(["register", "run_dir=runs/0", "name=x"]) == 2
    assert "was deleted in MLflow" in capsys.readouterr().err
    assert main(["train", "resume=runs/0", "total_frames=960"]) == 2
    error = capsys.readouterr().err
    assert "was deleted in MLflow; restore it with `" in error
    restore(error)
    assert main(["train", "resume=runs/0", "total_frames=960"]) == 0


def test_an_experiment_is_shown_as_one_of_trainings(in_tmp_dir):
    uri = f"sqlite:///{in_tmp_dir}/mlflow.db"
    prepare_store(uri)
    MlflowClient(uri).create_experiment("old", tags={"mlflow.note.content": "mine"})
    for name in ("new", "old"):
        tags = MlflowClient(uri).get_experiment(experiment_id_of(uri, name)).tags
        assert tags["mlflow.experimentKind"] == "custom_model_development"
        assert tags["mlflow.experiment.primaryMetric.name"] == "train/return_per_trial"
        assert ("memo compare" in tags["mlflow.note.content"]) == (name == "new"), "what the user has written stays"
