"""Study files: those that ship, changes by the command line, and what is rejected."""

import contextlib
import importlib.util
import re

import optuna
import pytest
from optuna.storages import InMemoryStorage
from studies import write_study

from memo_lightning.errors import UserError
from memo_lightning.sweeps.space import draw
from memo_lightning.sweeps.study import begin_study, open_study
from memo_lightning.sweeps.study_file import read_study, shipped_studies


@pytest.mark.parametrize("path", sorted(shipped_studies().glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_are_right(path):
    spec = read_study(str(path), [])
    assert spec.name == path.stem
    assert spec.train_config.choices.env == ("t_maze" if path.stem.startswith("t_maze") else "dark_key_to_door")


def test_overrides_reach_the_study_or_all_its_trials(tmp_path):
    path = write_study(tmp_path / "small.yaml")
    spec = read_study(str(path), ["n_trials=7", "workers=2", "env.lit=true", "name=other"])
    assert (spec.name, spec.settings["n_trials"], spec.settings["workers"]) == ("other", 7, 2)
    assert spec.train_config.env.lit is True
    assert str(spec.run_dir) == "studies/other"


@pytest.mark.parametrize("name", ["2024", "0.5", "1e3", "'a, b'"])
def test_a_study_can_have_any_name(tmp_path, name):
    path = write_study(tmp_path / "small.yaml")
    spec = read_study(str(path), [f"name={name}", "logger=none"])
    assert isinstance(spec.name, str)
    assert spec.settings["name"] == spec.name
    storage = InMemoryStorage()
    assert begin_study(spec, storage, None).study_name == spec.name
    assert open_study(spec, storage) is not None, "the same command finds it again"


def test_the_command_line_can_switch_pruning_off(tmp_path):
    path = str(write_study(tmp_path / "small.yaml", pruner={"_target_": "optuna.pruners.MedianPruner"}))
    assert read_study(path, []).settings["pruner"]
    assert read_study(path, ["pruner=null"]).settings["pruner"] is None


def test_every_trial_has_a_random_stream_of_its_own(tmp_path):
    spec = read_study(str(write_study(tmp_path / "small.yaml")), [])

    def first_draw(*stream):
        return spec.sampler(*stream)._rng.rng.rand()

    assert first_draw(3, "a") == first_draw(3, "a")
    assert len({first_draw(3, "a"), first_draw(4, "a"), first_draw(3, "b")}) == 3


def test_samplers_with_one_sequence_go_on_with_it(tmp_path):
    """With one sampler per trial, a grid is visited once and a quasi-random sequence fills the space evenly."""
    choices = {"algorithm.n_epochs": [1, 2, 3, 4]}
    grid = {"_target_": "optuna.samplers.GridSampler", "search_space": choices}
    space = {"algorithm.n_epochs": {"type": "int", "low": 1, "high": 4}}
    spec = read_study(str(write_study(tmp_path / "grid.yaml", sampler=grid, space=space)), [])
    study = optuna.create_study()
    for n in range(4):
        study.sampler = spec.sampler(n, "a")
        trial = study.ask()
        with contextlib.suppress(RuntimeError):  # when the grid is exhausted
            study.tell(trial, trial.suggest_int("algorithm.n_epochs", 1, 4))
    assert sorted(trial.value for trial in study.trials) == [1, 2, 3, 4]

    lists = {"encoder.in_keys": [["observation"], ["observation", "previous_step"]]}
    space = {"encoder.in_keys": {"type": "categorical", "choices": lists["encoder.in_keys"]}}
    grid = {"_target_": "optuna.samplers.GridSampler", "search_space": lists}
    spec = read_study(str(write_study(tmp_path / "lists.yaml", sampler=grid, space=space)), [])
    study = optuna.create_study(sampler=spec.sampler(0, "a"))
    assert draw(spec.space, study.ask())["encoder.in_keys"] in ("[observation]", "[observation,previous_step]")

    sequence = {"_target_": "optuna.samplers.QMCSampler"}
    spec = read_study(str(write_study(tmp_path / "sequence.yaml", sampler=sequence)), [])
    study = optuna.create_study()
    for n in range(17):
        study.sampler = spec.sampler(n, "a")
        trial = study.ask()
        study.tell(trial, trial.suggest_float("algorithm.gamma", 0, 1))
    drawn = [trial.value for trial in study.trials[1:]]  # the first only tells the sampler what to draw
    assert sorted(int(16 * value) for value in drawn) == list(range(16)), "one in every sixteenth"


@pytest.mark.parametrize(
    ("settings", "overrides", "message"),
    [
        ({"n_trails": 3}, [], "unknown setting 'n_trails': did you mean n_trials"),
        ({"n_trials": "many"}, [], "n_trials='many': must be an integer"),
        ({"train": "env=dark"}, [], "train: must be a list"),
        ({"train": ["enw=dark"]}, [], "unknown override 'enw'"),
        ({}, ["n_trials=0"], "n_trials=0: must be at least 1"),
        ({}, ["workers=0"], "workers=0: must be at least 1"),
        ({}, ["retries=-1"], "retries=-1: must be at least 0"),
        ({}, ["n_trails=3"], "unknown override 'n_trails'"),
        ({"objectives": [{"metric": "x"}]}, [], "must have metric and direction"),
        ({"objectives": [{"metric": "x", "direction": "up"}]}, [], "direction='up': must be maximize or minimize"),
        ({"objectives": []}, [], "objectives=[]: must be a list of at least one {metric: NAME"),
        (
            {"train": ["seed=5"]},
            [],
            "seed must not be set, as every trial sets its own; to set the number of runs per trial, use n_seeds=N",
        ),
        ({}, ["resume=runs/a"], "train: resume must not be set"),
        ({"space": {"run_dir": {"type": "categorical", "choices": ["a"]}}}, [], "space: run_dir must not be set"),
        ({"sampler": "optuna.samplers.TPESampler"}, [], "must be {_target_: a class of optuna.samplers}"),
        ({"sampler": {"_target_": "optuna.pruners.NopPruner"}}, [], "must be a class of optuna.samplers"),
        ({"pruner": {"_target_": "optuna.samplers.RandomSampler"}}, [], "must be a class of optuna.pruners"),
        ({"pruner": {"_target_": "optuna.pruners.MedianPruner", "n_warm": 3}}, [], "n_warm"),
        (
            {
                "pruner": {"_target_": "optuna.pruners.NopPruner"},
                "objectives": [{"metric": m, "direction": "maximize"} for m in "ab"],
            },
            [],
            "pruner: must be null with several objectives",
        ),
    ],
)
def test_a_wrong_study_is_one_line(settings, overrides, message, tmp_path):
    path = write_study(tmp_path / "wrong.yaml", **settings)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_study(str(path), overrides)
    assert "\n" not in str(error.value)


class NeedsAPackage(optuna.pruners.BasePruner):
    """Fails at the first report."""

    def prune(self, study, trial):
        import a_package_that_is_not_here  # noqa: F401


@pytest.mark.skipif(importlib.util.find_spec("cmaes") is not None, reason="needs an installation without cmaes")
def test_a_sampler_that_lacks_a_package_is_told_before_the_study_begins(tmp_path):
    path = write_study(tmp_path / "evolution.yaml", sampler={"_target_": "optuna.samplers.CmaEsSampler"})
    message = "sampler._target_=optuna.samplers.CmaEsSampler: needs cmaes; pip install cmaes"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_study(str(path), [])


def test_samplers_and_pruners_that_fail_on_a_trial_are_told_before_the_study_begins(tmp_path):
    grid = {"_target_": "optuna.samplers.GridSampler", "search_space": {"algorithm.n_epochs": [1, 2]}}
    message = "sampler._target_=optuna.samplers.GridSampler: cannot be used with this study (The parameter name, "
    with pytest.raises(UserError, match=re.escape(message)):
        read_study(str(write_study(tmp_path / "grid.yaml", sampler=grid)), [])
    path = write_study(tmp_path / "pruned.yaml", pruner={"_target_": f"{__name__}.NeedsAPackage"})
    message = "NeedsAPackage: needs a_package_that_is_not_here; pip install a_package_that_is_not_here"
    with pytest.raises(UserError, match=message):
        read_study(str(path), [])


@pytest.mark.parametrize("name", ["BruteForce", "GP", "NSGAII", "QMC", "Random", "TPE"])
def test_samplers_of_optuna_are_accepted_with_settings_that_apply_at_times_only(tmp_path, name):
    space = {
        "algorithm.n_epochs": {"type": "int", "low": 1, "high": 2},
        "algorithm.target_kl": {"type": "categorical", "choices": [0.01, 0.02], "when": {"algorithm.n_epochs": 2}},
    }
    sampler = {"_target_": f"optuna.samplers.{name}Sampler"}
    assert read_study(str(write_study(tmp_path / "any.yaml", space=space, sampler=sampler)), []).space


def test_files_that_are_no_studies_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such study file; shipped studies: baselines, fair_full_context, "):
        read_study("sweeps/missing.yaml", [])
    with pytest.raises(UserError, match=r"nowhere/ppo\.yaml: no such study file"):
        read_study("nowhere/ppo.yaml", [])
    broken = tmp_path / "broken.yaml"
    broken.write_text("space: [")
    with pytest.raises(UserError, match="cannot be read as YAML"):
        read_study(str(broken), [])
    broken.write_text("- a\n- b\n")
    with pytest.raises(UserError, match="must contain settings as key: value"):
        read_study(str(broken), [])
