"""The files that a finished study leaves."""

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from omegaconf import OmegaConf
from studies import write_study

from memo_lightning.config import compose_config
from memo_lightning.overrides import parse_override
from memo_lightning.sweeps.report import write_report
from memo_lightning.sweeps.run import open_runs
from memo_lightning.sweeps.space import draw
from memo_lightning.sweeps.storage import open_storage
from memo_lightning.sweeps.study import begin_study, mlflow_run_of
from memo_lightning.sweeps.study_file import read_study


def test_of_several_objectives_the_best_of_each_is_logged_whoever_reached_it(in_tmp_dir):
    objectives = [
        {"metric": "return_per_trial", "direction": "maximize"},
        {"metric": "memory_bytes", "direction": "minimize"},
    ]
    spec = read_study(str(write_study(in_tmp_dir / "front.yaml", objectives=objectives)), [])
    runs = open_runs(spec)
    study = begin_study(spec, open_storage(str(spec.run_dir / "journal.log")), runs.start_study(spec.settings))
    for values in ((1.0, 10.0), (3.0, 30.0), (2.0, 20.0), (2.0, 40.0)):
        trial = study.ask()
        draw(spec.space, trial)
        study.tell(trial, values)
    report = write_report(spec, study, runs)
    assert [trial.number for trial in report.best] == [0, 1, 2], "the fourth is worse in both than the third"
    uri = f"sqlite:///{in_tmp_dir}/mlflow.db"
    told = OmegaConf.load(download_artifacts(f"runs:/{mlflow_run_of(study)}/study.yaml", tracking_uri=uri))
    assert told["n_trials"] == spec.settings["n_trials"]
    assert "storage" not in told, "which may hold a password"
    metrics = MlflowClient(uri).get_run(mlflow_run_of(study)).data.metrics
    best = {"trials/best/return_per_trial": 3.0, "trials/best/memory_bytes": 10.0}
    assert metrics == pytest.approx({**best, "trials/complete": 4.0})
    assert {"pareto_front", "history_return_per_trial"} <= {file.stem for file in report.files}


def test_a_study_of_lists_with_any_name_is_drawn_and_its_best_settings_are_an_experiment(in_tmp_dir):
    choices = [["observation"], ["observation", "previous_step"]]
    space = {
        "encoder.in_keys": {"type": "categorical", "choices": choices},
        "algorithm.n_epochs": {"type": "int", "low": 1, "high": 2},
    }
    path = write_study(in_tmp_dir / "lists.yaml", name="it's a/b, 1", space=space, run_dir="here")
    spec = read_study(str(path), ["logger=none"])
    study = begin_study(spec, open_storage(str(spec.run_dir / "journal.log")), None)
    for value in (1.0, 3.0, 2.0, 4.0):
        trial = study.ask()
        values = draw(spec.space, trial)
        study.tell(trial, value)
    report = write_report(spec, study, None)
    assert {"history", "parallel_coordinates", "importances"} <= {file.stem for file in report.files}
    (experiment,) = report.experiments
    config = compose_config("train", [f"experiment={experiment}"])
    assert list(config.encoder.in_keys) == list(parse_override(f"k={values['encoder.in_keys']}").value())
    assert config.algorithm.n_epochs == values["algorithm.n_epochs"]


def test_the_best_settings_are_those_of_the_trial_where_a_preset_comes_after_other_overrides(in_tmp_dir):
    path = write_study(in_tmp_dir / "late.yaml", train=["total_frames=640", "env=darkroom", "env.trial_length=80"])
    spec = read_study(str(path), ["experiment=t_maze_100", "logger=none"])
    study = begin_study(spec, open_storage(str(spec.run_dir / "journal.log")), None)
    draw(spec.space, trial := study.ask())
    study.tell(trial, 1.0)
    (experiment,) = write_report(spec, study, None).experiments
    config = compose_config("train", [f"experiment={experiment}"])
    trained = spec.train_config
    assert (config.choices.env, config.env.trial_length, config.total_frames) == ("darkroom", 80, 640)
    assert (trained.choices.env, trained.env.trial_length, trained.total_frames) == ("darkroom", 80, 640)


def test_a_study_whose_mlflow_run_is_gone_at_its_end_is_reported_all_the_same(in_tmp_dir, capsys):
    spec = read_study(str(write_study(in_tmp_dir / "gone.yaml")), [])
    runs = open_runs(spec)
    study = begin_study(spec, open_storage(str(spec.run_dir / "journal.log")), runs.start_study(spec.settings))
    draw(spec.space, trial := study.ask())
    study.tell(trial, 1.0)
    client = MlflowClient(f"sqlite:///{in_tmp_dir}/mlflow.db")
    client.delete_run(mlflow_run_of(study))
    assert write_report(spec, study, runs).states == {"complete": 1}
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"not logged to MLflow: run {mlflow_run_of(study)}: was deleted in MLflow; restore it with `" in said
    client.restore_run(mlflow_run_of(study))
    write_report(spec, study, runs)
    assert client.get_run(mlflow_run_of(study)).data.metrics["trials/complete"] == 1.0, "the remedy"
