"""The report of a study: its best settings ready to use, a table of all trials, and plots."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots

from memo_lightning.config import config_dir
from memo_lightning.evaluation.plots import PAGE_WIDTH
from memo_lightning.overrides import parse_override
from memo_lightning.sweeps.space import as_overrides
from memo_lightning.sweeps.study import INTERRUPTED, mlflow_run_of
from memo_lightning.sweeps.study_file import StudySpec
from memo_lightning.tracking import file_name
from memo_lightning.tracking.study_runs import StudyRuns

_PRESETS = ("experiment", "debug")  # groups whose files change other groups


@dataclass(frozen=True)
class StudyReport:
    """The outcome of a study.

    Attributes:
        states: number of trials by state, e.g. ``{"complete": 9, "pruned": 3}``.
        best: the best trials: one, or the Pareto front of several objectives.
        experiments: for each of the best trials, a file with its settings for ``memo train experiment=FILE``.
        files: everything that was written.
    """

    states: dict[str, int]
    best: list[FrozenTrial]
    experiments: list[Path]
    files: list[Path]


def write_report(spec: StudySpec, study: optuna.Study, runs: StudyRuns | None) -> StudyReport:
    """Write the report to the study's folder and to its MLflow run."""
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    best = sorted(study.best_trials, key=lambda trial: trial.number) if complete else []
    experiments = [_write_experiment(spec, trial) for trial in best]
    files = [_write_trials(spec, trials), *experiments, *_plot(spec, study, complete)]
    states: dict[str, int] = {}
    for trial in trials:
        state = _state(trial)
        states[state] = states.get(state, 0) + 1
    parent = mlflow_run_of(study)
    if runs and parent:
        counts = {f"trials/{state}": float(n) for state, n in states.items()}
        runs.end_study(parent, "FINISHED", {**_best_values(spec, best), **counts}, files)
    return StudyReport(states, best, experiments, files)


def _best_values(spec: StudySpec, best: list[FrozenTrial]) -> dict[str, float]:
    """Return the best value of each objective; with several, no single trial need have reached all of them."""
    if not best:
        return {}
    better = {"maximize": max, "minimize": min}
    return {
        f"trials/best/{objective.metric}": better[objective.direction](trial.values[index] for trial in best)
        for index, objective in enumerate(spec.objectives)
    }


def _state(trial: FrozenTrial) -> str:
    if INTERRUPTED in trial.user_attrs:
        return "interrupted"
    return "failed" if trial.state is TrialState.FAIL else trial.state.name.lower()


def _write_trials(spec: StudySpec, trials: list[FrozenTrial]) -> Path:
    plain = [
        {
            "number": trial.number,
            "state": _state(trial),
            "settings": trial.params,
            "values": trial.values,
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            **{k: v for k, v in trial.user_attrs.items() if k != "owner"},
        }
        for trial in trials
    ]
    path = spec.run_dir / "trials.json"
    path.write_text(json.dumps(plain, indent=2) + "\n")
    return path


def _write_experiment(spec: StudySpec, trial: FrozenTrial) -> Path:
    """Write the settings of a trial as a file like those of ``conf/experiment/``."""
    groups: dict[str, str] = {}
    values = OmegaConf.create()
    overrides = [parse_override(text) for text in [*spec.train, *as_overrides(trial.params)]]
    # Other overrides take precedence over presets, wherever they stand.
    for override in sorted(overrides, key=lambda override: override.key_or_group not in _PRESETS):
        key = override.key_or_group
        value: Any = override.value()
        if key in _PRESETS:
            _take_over(_preset(key, value), groups, values)
        elif key in spec.train_config.choices:
            groups[key] = value
        else:
            OmegaConf.update(values, key, value, force_add=True)
    reached = ", ".join(f"{o.metric} {v:.4g}" for o, v in zip(spec.objectives, trial.values, strict=True))
    defaults = [{f"override /{group}": option} for group, option in groups.items()]
    path = spec.run_dir / "experiment" / f"{file_name(spec.name)}_trial_{trial.number}.yaml"
    text = f"# @package _global_\n# Trial {trial.number} of study {spec.name}: {reached}.\n"
    text += f"#   memo train experiment={path}\n"
    if defaults:
        text += OmegaConf.to_yaml(OmegaConf.create({"defaults": defaults}))
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + OmegaConf.to_yaml(values))
    return path


def _preset(group: str, option: str) -> DictConfig:
    """Read the file of a preset, which may lie outside ``conf/``."""
    path = Path(option) if option.endswith(".yaml") else config_dir() / group / f"{option}.yaml"
    preset = OmegaConf.load(path)
    assert isinstance(preset, DictConfig)
    return preset


def _take_over(preset: DictConfig, groups: dict[str, str], values: DictConfig) -> None:
    """Copy the choices and values of a preset, as one experiment cannot name another."""
    for default in preset.pop("defaults", []):
        if isinstance(default, DictConfig):
            ((group, option),) = default.items()
            groups[str(group).removeprefix("override /")] = option
    values.merge_with(preset)


def _plot(spec: StudySpec, study: optuna.Study, complete: list[FrozenTrial]) -> list[Path]:
    """Draw Optuna's plots of the study; importances need a few trials to be more than chance."""
    drawings: dict[str, Callable[[], Any]] = {}
    several = len(spec.objectives) > 1
    for index, objective in enumerate(spec.objectives if len(complete) >= 2 else ()):
        suffix = f"_{objective.metric.replace('/', '_')}" if several else ""
        # Without a target, Optuna knows the direction and colours better trials darker.
        what: dict[str, Any] = {"target": partial(_value, index=index)} if several else {}
        what["target_name"] = objective.metric
        drawings[f"history{suffix}"] = partial(plots.plot_optimization_history, study, **what)
        drawings[f"parallel_coordinates{suffix}"] = partial(plots.plot_parallel_coordinate, study, **what)
        if len(complete) >= 4:
            drawings[f"importances{suffix}"] = partial(plots.plot_param_importances, study, **what)
    if several and complete:
        names = [objective.metric for objective in spec.objectives]
        drawings["pareto_front"] = partial(plots.plot_pareto_front, study, target_names=names)
    if spec.settings["pruner"] and any(trial.intermediate_values for trial in complete):
        drawings["reports"] = partial(plots.plot_intermediate_values, study)
    return [path for name, draw in drawings.items() if (path := _save(draw, spec.run_dir / f"{name}.png"))]


def _value(trial: FrozenTrial, index: int) -> float:
    return trial.values[index]


def _save(draw: Callable[[], Any], path: Path) -> Path | None:
    with matplotlib.rc_context({"backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna marks most of its plots as experimental
        try:
            axes = draw()
        except (ValueError, RuntimeError):  # all trials are alike: there is nothing to plot
            return None
        first: Axes = axes if isinstance(axes, Axes) else axes.flat[0]
        figure = first.figure
        assert isinstance(figure, Figure)
        figure.set_size_inches(PAGE_WIDTH, 4.5)
        figure.savefig(path, dpi=110, bbox_inches="tight")
        matplotlib.pyplot.close(figure)
    return path
