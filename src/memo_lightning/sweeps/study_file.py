"""Study files: what is searched for, how, and where the study is kept."""

from __future__ import annotations

import hashlib
import json
import pkgutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from omegaconf import DictConfig, OmegaConf

from memo_lightning.config import apply_overrides, build, compose_config, merge_file, overrides_of
from memo_lightning.errors import UserError, require
from memo_lightning.overrides import override_key
from memo_lightning.quiet import quietly
from memo_lightning.sweeps.space import Parameter, as_choice, check_space, draw, parse_space
from memo_lightning.training.trainer import check_trainer_settings
from memo_lightning.wording import one_line

# Settings that may change between two commands on one study: how much is done, and by which processes.
CHANGEABLE = ("n_trials", "retries", "workers", "storage", "run_dir")
# Settings that a trial sets for each of its runs.
_OF_TRIALS = {"seed": "; to set the number of runs per trial, use n_seeds=N", "run_dir": "", "resume": ""}


@dataclass(frozen=True)
class Objective:
    """A metric to maximize or minimize."""

    metric: str
    direction: Literal["maximize", "minimize"]


@dataclass(frozen=True)
class StudySpec:
    """A study as described by its file and the command line.

    Attributes:
        name: name of the study in its storage.
        train: overrides of ``memo train`` that all trials share.
        train_config: the configuration composed from them.
        space: the parameters that vary.
        objectives: the metrics to optimise.
        settings: the whole description as plain values, e.g. ``settings["n_trials"]``.
        run_dir: folder of the trials' files on this machine.
    """

    name: str
    train: tuple[str, ...]
    train_config: DictConfig
    space: tuple[Parameter, ...]
    objectives: tuple[Objective, ...]
    settings: dict[str, Any]
    run_dir: Path

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """The direction of each objective."""
        return [objective.direction for objective in self.objectives]

    @property
    def fixed_settings(self) -> dict[str, Any]:
        """The settings that must not change during the study."""
        return {key: value for key, value in self.settings.items() if key not in CHANGEABLE}

    @property
    def prune_every(self) -> int:
        """The number of frames between two checks by the pruner."""
        return self.settings["prune_every"] or max(1, self.train_config.total_frames // 20)

    @property
    def one_process_on_cpu(self) -> bool:
        """Whether each run of every trial is a single process that uses no accelerator."""
        trainer = self.train_config.trainer
        alone = (trainer.accelerator, trainer.devices, trainer.num_nodes, trainer.strategy) == ("cpu", 1, 1, "auto")
        return alone and not any(parameter.key.partition(".")[0] == "trainer" for parameter in self.space)

    def sampler(self, n_existing: int, machine: str) -> optuna.samplers.BaseSampler:
        """Return the sampler for the trial that follows ``n_existing`` others.

        Its random stream is new for every trial, so that a resumed study does not repeat what it has drawn before, and
        machines do not draw the same values. Samplers that go through one sequence keep the same seed throughout; the
        storage keeps their place in it.
        """
        text = json.dumps([self.settings["seed"], n_existing, machine])
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        kind = pkgutil.resolve_name(self.settings["sampler"]["_target_"])
        if issubclass(kind, optuna.samplers.GridSampler):
            sampler = dict(self.settings["sampler"])
            if isinstance(grid := sampler.get("search_space"), dict):
                sampler["search_space"] = {key: [*map(as_choice, choices)] for key, choices in grid.items()}
            return build(sampler, seed=self.settings["seed"])
        if issubclass(kind, optuna.samplers.QMCSampler):
            rest = optuna.samplers.RandomSampler(seed)  # draws what the sequence cannot represent
            return build(self.settings["sampler"], seed=self.settings["seed"], independent_sampler=rest)
        return build(self.settings["sampler"], seed=seed)

    def pruner(self) -> optuna.pruners.BasePruner:
        """Return the pruner, or one that never prunes if none is named."""
        return build(self.settings["pruner"]) if self.settings["pruner"] else optuna.pruners.NopPruner()


def read_study(path: str, overrides: Sequence[str]) -> StudySpec:
    """Read a study file, apply ``overrides``, and check all that can be checked without training.

    Args:
        path: the file; if there is none, the shipped study of that name.
        overrides: settings of ``conf/sweep.yaml``, or of ``memo train`` for all trials.

    Raises:
        UserError: if the file, a setting or the search space is wrong.
    """
    file = _find(path)
    config = compose_config("sweep")
    del config.choices
    optional = [str(key) for key, value in config.items() if value is None]
    merge_file(config, file)
    own = overrides_of(config, overrides)
    train = [override for override in overrides if override not in own]
    apply_overrides(config, own, optional=optional)
    config.train = [*config.train, *train]
    config.name = file.stem if config.name is None else str(config.name)  # a name may be a number
    settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]

    for name in ("n_trials", "n_seeds", "workers"):
        require(settings[name] >= 1, name, settings[name], "at least 1")
    require(settings["retries"] >= 0, "retries", settings["retries"], "at least 0")
    _check_optuna_class(settings, "sampler", optuna.samplers.BaseSampler)
    if settings["pruner"]:
        _check_optuna_class(settings, "pruner", optuna.pruners.BasePruner)
    for where, keys in (("train", map(override_key, settings["train"])), ("space", settings["space"])):
        for key in keys:
            if key in _OF_TRIALS:
                raise UserError(f"{where}: {key} must not be set, as every trial sets its own{_OF_TRIALS[key]}")
    space = parse_space(settings["space"])
    objectives = _parse_objectives(settings["objectives"])
    train_config = compose_config("train", settings["train"])
    check_trainer_settings(train_config.trainer)
    check_space(space, settings["train"])
    spec = StudySpec(
        settings["name"],
        tuple(settings["train"]),
        train_config,
        tuple(space),
        objectives,
        settings,
        Path(settings["run_dir"] or Path("studies") / settings["name"]),
    )
    spec.sampler(0, "")  # building sampler and pruner checks their settings
    spec.pruner()
    if settings["pruner"] and len(objectives) > 1:
        raise UserError("pruner: must be null with several objectives, as pruning needs a single one")
    _check_draws(spec)
    return spec


def shipped_studies() -> Path:
    """Return the folder of the shipped studies: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "studies"
    return installed if installed.is_dir() else package.parents[1] / "sweeps"


def _find(path: str) -> Path:
    candidates = [Path(path)]
    if Path(path) in (Path(Path(path).stem), Path("sweeps") / f"{Path(path).stem}.yaml"):
        candidates.append(shipped_studies() / f"{Path(path).stem}.yaml")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(file.stem for file in shipped_studies().glob("*.yaml")))
    raise UserError(f"{path}: no such study file; shipped studies: {known}")


def _parse_objectives(objectives: Any) -> tuple[Objective, ...]:
    require(bool(objectives), "objectives", objectives, "a list of at least one {metric: NAME, direction: maximize}")
    parsed = []
    for index, objective in enumerate(objectives):
        name = f"objectives[{index}]"
        if not isinstance(objective, dict) or set(objective) != {"metric", "direction"}:
            raise UserError(f"{name}={objective!r}: must have metric and direction")
        direction = objective["direction"]
        require(direction in ("maximize", "minimize"), f"{name}.direction", direction, "maximize or minimize")
        parsed.append(Objective(objective["metric"], direction))
    return tuple(parsed)


def _check_draws(spec: StudySpec) -> None:
    """Let sampler and pruner go through a few made-up trials in memory, as some show only then what they lack.

    Samplers that learn from earlier trials begin to do so after ``n_startup_trials``, by default ten at most.

    Raises:
        UserError: if one of them fails.
    """
    study = optuna.create_study(directions=spec.directions, pruner=spec.pruner())
    name = "sampler"
    try:
        with quietly():
            for number in range(2 + (spec.settings["sampler"].get("n_startup_trials") or 10)):
                name, study.sampler = "sampler", spec.sampler(number, "")
                trial = study.ask()
                draw(spec.space, trial)
                if spec.settings["pruner"]:
                    name = "pruner"
                    trial.report(float(number), step=spec.prune_every)
                    trial.should_prune()
                name = "sampler"
                with suppress(RuntimeError):  # from grid samplers, once everything has been tried
                    study.tell(trial, [float(number)] * len(spec.objectives))
    except Exception as error:  # whatever a sampler or pruner raises
        field = f"{name}._target_={spec.settings[name]['_target_']}"
        missing = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        if isinstance(missing, ImportError) and missing.name:
            raise UserError(f"{field}: needs {missing.name}; pip install {missing.name}") from None
        raise UserError(f"{field}: cannot be used with this study ({one_line(error)})") from None


def _check_optuna_class(settings: dict[str, Any], name: str, kind: type) -> None:
    """Reject a sampler or pruner that is not a class of ``kind``, before anything of it is called."""
    part = settings[name]
    require(isinstance(part, dict) and "_target_" in part, name, part, f"{{_target_: a class of optuna.{name}s}}")
    target = part["_target_"]
    try:
        fits = issubclass(pkgutil.resolve_name(str(target)), kind)
    except (ImportError, AttributeError, ValueError, TypeError):
        fits = False
    require(fits, f"{name}._target_", target, f"a class of optuna.{name}s")
