"""Studies as a user runs them: trials run in separate processes, and every trial is accounted for."""

import json
import os
import signal
import socket
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import optuna
import pytest
import yaml
from mlflow import MlflowClient
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from studies import TINY, begin, load, read_json, start_sweep, trial_process_of, wait_for, write_study

from memo_lightning.cli.main import main
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.sweeps.run import StudyRunner, open_runs
from memo_lightning.sweeps.space import draw
from memo_lightning.sweeps.study import OWNER, mlflow_run_of, open_study
from memo_lightning.sweeps.study_file import read_study
from memo_lightning.sweeps.trial import TrialResult


def states(study):
    return Counter(trial.state for trial in study.trials)


def runs_of_kind(client, kind):
    experiment = client.get_experiment_by_name("memo-lightning")
    return client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'")


@pytest.fixture(scope="module")
def killed_and_finished(tmp_path_factory):
    """Run a study in which a trial's process is killed, then the whole study, and which is then resumed to its end.

    The pruner ends one of its three settings.
    """
    folder = tmp_path_factory.mktemp("study")
    store = f"logger.tracking_uri=sqlite:///{folder}/mlflow.db"
    path = write_study(
        folder / "small.yaml",
        n_seeds=2,
        train=[*TINY, store],
        space={"algorithm.n_epochs": {"type": "categorical", "choices": [1, 2, 3]}},
        sampler={"_target_": "optuna.samplers.BruteForceSampler"},
        pruner={"_target_": "studies.PruneLongUpdates"},
        prune_every=320,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for place in Path(__file__).parents[:2]:  # the pruner and its imports
            patch.setenv("PYTHONPATH", str(place), prepend=os.pathsep)
        begin(folder, path)
        process = start_sweep(folder, str(path), "workers=2")
        try:
            wait_for(process, "starts")
            wait_for(process, "starts")
            os.kill(trial_process_of(folder, "small"), signal.SIGKILL)
            failed = wait_for(process, "failed", "complete", "pruned")
            assert "failed" in failed
            assert "killed by SIGKILL" in failed
            wait_for(process, "complete", "pruned")
        finally:
            process.kill()
            process.communicate()
        before = {trial.number: trial for trial in load(folder, "small").trials}
        assert main(["sweep", str(path), "workers=2"]) == 0
    return folder, before


@pytest.mark.slow
def test_a_killed_study_goes_on_without_losing_or_repeating_a_trial(killed_and_finished):
    folder, before = killed_and_finished
    study = load(folder, "small")
    assert {TrialState.COMPLETE, TrialState.PRUNED} & {trial.state for trial in before.values()}
    for number, trial in before.items():
        if trial.state.is_finished():
            assert study.trials[number] == trial
    assert states(study)[TrialState.COMPLETE] == 2
    assert states(study)[TrialState.PRUNED] == 1
    assert not states(study)[TrialState.RUNNING]
    assert not states(study)[TrialState.WAITING]
    for trial in study.trials:
        if trial.state is TrialState.FAIL:
            (repeat,) = [other for other in study.trials if other.user_attrs.get("repeats") == trial.number]
            assert trial.params == repeat.params
            assert "killed by SIGKILL" in trial.user_attrs["error"] or "process died" in trial.user_attrs["error"]
    finished = [trial.params["algorithm.n_epochs"] for trial in study.trials if trial.state is not TrialState.FAIL]
    assert sorted(finished) == [1, 2, 3]


@pytest.mark.slow
def test_a_study_killed_while_it_drew_a_trial_goes_on(in_tmp_dir):
    """The sampler fails on a finished trial that lacks some of its settings."""
    space = {
        "algorithm.gamma": {"type": "categorical", "choices": [0.9, 0.99]},
        "algorithm.n_epochs": {"type": "categorical", "choices": [1, 2]},
    }
    path = write_study(
        in_tmp_dir / "half.yaml",
        train=[*TINY, "total_frames=320"],
        space=space,
        sampler={"_target_": "optuna.samplers.BruteForceSampler"},
        n_trials=4,
    )
    begin(in_tmp_dir, path, "logger=none")
    study = load(in_tmp_dir, "half")
    study.sampler = optuna.samplers.BruteForceSampler(seed=0)
    for n_drawn in (0, 1):
        trial = study.ask()
        trial.set_user_attr(OWNER, f"{socket.gethostname()}:1:0")  # not the process that now has this id
        for key in list(space)[:n_drawn]:
            trial.suggest_categorical(key, space[key]["choices"])
    assert main(["sweep", "half.yaml", "logger=none"]) == 0
    trials = load(in_tmp_dir, "half").trials
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 2 + [TrialState.COMPLETE] * 4
    assert [trial.params for trial in trials[:2]] == [trial.params for trial in trials[2:4]]
    tried = {tuple(trial.params.values()) for trial in trials[2:]}
    assert len(tried) == 4


@pytest.mark.slow
def test_optuna_and_mlflow_tell_the_same(killed_and_finished):
    folder, _ = killed_and_finished
    study, client = load(folder, "small"), MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (parent,) = runs_of_kind(client, "study")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials/best/return_per_trial"] == study.best_value
    assert (parent.data.metrics["trials/complete"], parent.data.metrics["trials/pruned"]) == (2, 1)
    children = {int(run.data.tags["trial"]): run for run in runs_of_kind(client, "trial")}
    begun = [trial for trial in study.trials if "mlflow_run_id" in trial.user_attrs]
    assert set(children) == {trial.number for trial in begun}
    assert all(trial.state is TrialState.FAIL for trial in study.trials if trial not in begun)
    ends = {
        TrialState.COMPLETE: {("FINISHED", "complete")},
        TrialState.PRUNED: {("FINISHED", "pruned")},
        TrialState.FAIL: {("FAILED", "failed"), ("KILLED", "interrupted")},
    }
    seeds = runs_of_kind(client, "seed")
    for trial in begun:
        run = children[trial.number]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (run.info.status, run.data.tags["state"]) in ends[trial.state]
        assert {k: float(v) for k, v in run.data.params.items()} == {
            k.replace(".", "/"): float(v) for k, v in trial.params.items()
        }
        own = [run for run in seeds if run.data.tags["mlflow.parentRunId"] == children[trial.number].info.run_id]
        assert all(run.info.status != "RUNNING" for run in own)
        over = [run for run in own if run.info.status == "FINISHED"]
        metrics = [read_json(folder / run.data.tags["run_dir"] / "metrics.json") for run in over]
        histories = [client.get_metric_history(run.info.run_id, "train/return_per_trial") for run in own]
        if trial.state is TrialState.COMPLETE:
            assert run.data.metrics["return_per_trial"] == trial.value
            assert {run.data.tags["seed"] for run in own} == {"0", "1"}
            assert sum(run["return_per_trial"] for run in metrics) / 2 == pytest.approx(trial.value)
            assert all([point.step for point in history] == [320, 640, 960] for history in histories)
        elif trial.state is TrialState.PRUNED:
            (history,), (figures,) = histories, metrics
            assert trial.intermediate_values == {point.step: point.value for point in history}
            assert list(trial.intermediate_values) == [320] == [figures["frames"]], "the second seed was not begun"
            assert run.data.metrics["train/return_per_trial"] == trial.intermediate_values[320]


@pytest.mark.slow
def test_the_best_settings_are_an_experiment_of_memo_train(killed_and_finished, monkeypatch):
    folder, _ = killed_and_finished
    monkeypatch.chdir(folder)
    best = load(folder, "small").best_trial
    file = f"studies/small/experiment/small_trial_{best.number}.yaml"
    config = compose_config("train", [f"experiment={file}", "seed=4"])
    assert (config.algorithm.n_epochs, config.seed) == (best.params["algorithm.n_epochs"], 4)
    assert config.env == compose_config("train", TINY).env
    assert {"history.png", "reports.png", "trials.json"} <= {path.name for path in (folder / "studies/small").iterdir()}


@pytest.mark.slow
def test_compare_keeps_searches_and_trainings_apart(killed_and_finished, monkeypatch, capsys):
    folder, _ = killed_and_finished
    monkeypatch.chdir(folder)
    assert main(["compare"]) == 2
    assert "shown with study=small" in capsys.readouterr().err
    assert main(["train", *TINY, "seed=7", "run_dir=plain"]) == 0
    assert main(["compare", "run_dir=plain_only"]) == 0
    (group,) = read_json(folder / "plain_only/comparison.json")
    assert group["seeds"] == [7]

    capsys.readouterr()
    assert main(["compare", "study=small", "run_dir=of_study"]) == 0
    (group,) = read_json(folder / "of_study/comparison.json")
    assert group["seeds"] == [0, 1]
    best = load(folder, "small").best_trial
    assert group["return_per_trial"]["mean"] == pytest.approx(best.value)
    assert not group["settings"], "the seeds of one trial"
    assert "**Chosen by the score** (maximize return_per_trial)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_study_that_changed_is_refused(killed_and_finished, monkeypatch, capsys):
    folder, _ = killed_and_finished
    monkeypatch.chdir(folder)
    assert main(["sweep", "small.yaml", "n_seeds=3"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "n_seeds: has changed since study 'small' began (was 2, is 3)" in error
    changed = yaml.safe_load((folder / "small.yaml").read_text())
    changed["space"]["algorithm.n_epochs"]["choices"] = [1, 2]
    (folder / "changed.yaml").write_text(yaml.safe_dump(changed))
    assert main(["sweep", "changed.yaml", "name=small", "run_dir=studies/small"]) == 2
    assert "space: has changed since study 'small' began" in capsys.readouterr().err


@pytest.mark.slow
def test_mistakes_are_told_before_any_trial(in_tmp_dir, capsys):
    """A rehearsal finds mistakes that show only in training."""
    write_study(in_tmp_dir / "small.yaml", objectives=[{"metric": "return_per_trail", "direction": "maximize"}])
    assert main(["sweep", "small.yaml"]) == 2
    assert (
        "objectives[0].metric=return_per_trail: is never logged; did you mean return_per_trial"
        in (capsys.readouterr().err.splitlines()[-1])
    )
    assert not (in_tmp_dir / "studies/small/trials").exists()


@pytest.mark.slow
def test_bad_trials_are_pruned_by_frames_on_all_ranks_and_failed_ones_keep_their_error(in_tmp_dir):
    """The trial that runs exceeds the pruner's bound after the warm-up; invalid settings are not tried again.

    A trial is a run on two ranks, which crashes or hangs if only one of them stops.
    """
    varied = [override for override in TINY if not override.startswith("env.episode_length")]
    path = write_study(
        in_tmp_dir / "pruned.yaml",
        train=[*varied, "collector.n_envs=4", "algorithm.n_minibatches=2", "trainer.devices=2", "trainer.strategy=ddp"],
        space={"env.episode_length": {"type": "categorical", "choices": [10, 41]}},
        sampler={"_target_": "optuna.samplers.BruteForceSampler"},
        pruner={"_target_": "optuna.pruners.ThresholdPruner", "upper": 0.0, "n_warmup_steps": 640},
        prune_every=320,
        n_trials=5,
    )
    begin(in_tmp_dir, path, "logger=none")
    assert main(["sweep", "pruned.yaml", "workers=2", "logger=none"]) == 0
    study = load(in_tmp_dir, "pruned")
    assert len(study.trials) == 2, "there are no more settings to be tried"
    assert main(["sweep", "pruned.yaml", "workers=2", "logger=none"]) == 0
    assert len(load(in_tmp_dir, "pruned").trials) == 2, "nor when the command is repeated"
    by_length = {trial.params["env.episode_length"]: trial for trial in study.trials}
    assert by_length[41].state is TrialState.FAIL
    assert "env.episode_length=41" in by_length[41].user_attrs["error"]
    pruned = by_length[10]
    assert pruned.state is TrialState.PRUNED
    assert sorted(pruned.intermediate_values) == [320, 640]
    metrics = read_json(in_tmp_dir / "studies" / "pruned" / "trials" / f"{pruned.number:04}" / "seed0/metrics.json")
    assert metrics["frames"] == 640, "the run ended then, with all that a run leaves"
    assert [point["return_per_trial"] for point in metrics["history"]] == pytest.approx(
        [pruned.intermediate_values[320], pruned.intermediate_values[640]]
    )


def test_storages_that_cannot_be_used_are_one_line(in_tmp_dir, capsys):
    write_study(in_tmp_dir / "small.yaml")
    (in_tmp_dir / "text").write_text("no journal\n")
    for storage, message in {
        "storage=mysql://localhost/x": "must be a file, or postgresql://USER@HOST/DATABASE",
        "storage=postgresql://me:secret@127.0.0.1:1/x": "storage=postgresql://me:***@127.0.0.1:1/x: cannot be reached",
        "storage=text": "storage='text': must be a new file, or one written by memo sweep",
    }.items():
        assert main(["sweep", "small.yaml", storage]) == 2
        said = capsys.readouterr().err
        assert message in said.splitlines()[-1]
        assert "secret" not in said


def test_a_study_whose_mlflow_run_is_gone_is_one_line_with_the_remedy(in_tmp_dir, monkeypatch, capsys):
    path = write_study(in_tmp_dir / "small.yaml")
    begin(in_tmp_dir, path)
    run_id = mlflow_run_of(load(in_tmp_dir, "small"))
    client = MlflowClient(f"sqlite:///{in_tmp_dir}/mlflow.db")
    client.delete_run(run_id)
    assert main(["sweep", "small.yaml"]) == 2
    _, said = capsys.readouterr().err.splitlines()
    assert f"run {run_id}: was deleted in MLflow; restore it with `env MLFLOW_TRACKING_URI=" in said
    client.restore_run(run_id)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert main(["sweep", "small.yaml"]) == 2
    _, said = capsys.readouterr().err.splitlines()
    assert f"study small: its MLflow run {run_id} is not in logger.tracking_uri='sqlite:///" in said
    assert "set MLFLOW_TRACKING_URI to that; else begin a new study with name=small-2" in said
    assert open_study(read_study("small.yaml", ["name=small-2"]), InMemoryStorage()) is None, "the remedy"
    assert not (in_tmp_dir / "studies/small/trials").exists()


def test_a_trial_whose_mlflow_run_is_gone_is_recorded_all_the_same(in_tmp_dir, capsys):
    path = write_study(in_tmp_dir / "small.yaml", n_trials=1)
    begin(in_tmp_dir, path)
    spec, study = read_study(str(path), []), load(in_tmp_dir, "small")
    runs = open_runs(spec)
    draw(spec.space, trial := study.ask())
    run_id = runs.start_trial(mlflow_run_of(study), trial.number, trial.params)
    trial.set_user_attr("mlflow_run_id", run_id)
    trial.set_user_attr(OWNER, f"{socket.gethostname()}:1:0")  # a process that has died
    folder = spec.run_dir / "trials/0000"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(asdict(TrialResult("complete", [2.0]))))
    MlflowClient(f"sqlite:///{in_tmp_dir}/mlflow.db").delete_run(run_id)
    assert main(["sweep", "small.yaml"]) == 0
    assert load(in_tmp_dir, "small").trials[0].values == [2.0]
    assert f"trial   0 not logged to MLflow: The run {run_id} must be in the 'active' state" in capsys.readouterr().err


def test_a_study_whose_mlflow_experiment_was_deleted_says_how_to_restore_it(in_tmp_dir, capsys):
    path = write_study(in_tmp_dir / "small.yaml")
    begin(in_tmp_dir, path)
    spec, study = read_study(str(path), []), load(in_tmp_dir, "small")
    storage, runs = study._storage, open_runs(spec)
    client = MlflowClient(f"sqlite:///{in_tmp_dir}/mlflow.db")
    client.delete_experiment(client.get_experiment_by_name("memo-lightning").experiment_id)
    with pytest.raises(UserError, match="memo-lightning: was deleted in MLflow; restore it with `"):
        StudyRunner(spec, study, storage, "", runs, [{}]).run()
