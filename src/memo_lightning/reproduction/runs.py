"""The runs that claims need, each identified by its settings, so that claims with the same run share it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.overrides import override_key
from memo_lightning.reproduction.claim import Claim
from memo_lightning.tracking.names import environment_name, file_name, memory_name

# Groups and settings that affect where a run is kept and what it reports, but not what it learns.
_NO_MATTER = ("seed", "run_dir", "resume", "checkpoint", "logger", "callbacks", "choices")
_NO_CHOICE = ("experiment", "debug", "logger", "callbacks", "trainer")
_OWN = ("seed", "run_dir", "resume", "checkpoint", "logger")  # set for every run of a claim


@dataclass(frozen=True)
class Run:
    """A training run, and how it is evaluated.

    Attributes:
        name: ``MEMORY-ENVIRONMENT-sSEED-HASH``. The hash covers the chosen options, the settings that differ from their
            defaults under these, the seed and ``starts_from``; a setting added to ``conf/`` later does not change it.
        overrides: overrides of ``memo train``, except the seed.
        seed: seed of the run.
        settings: all settings that decide what is learned, by dotted names.
        memory: name of its memory.
        environment: name of its environment.
        minutes: estimated minutes that it takes.
        starts_from: the run whose weights it starts from.
        evaluations: overrides of ``memo evaluate``, for each evaluation.
    """

    name: str
    overrides: tuple[str, ...]
    seed: int
    settings: Mapping[str, Any]
    memory: str
    environment: str
    minutes: float
    starts_from: Run | None = None
    evaluations: tuple[tuple[str, ...], ...] = ()

    def changed_settings(self, made_with: Mapping[str, Any]) -> list[str]:
        """Return ``KEY: OLD -> NEW`` for settings whose defaults have changed since a run was made.

        Args:
            made_with: settings of the run that was made. Settings that only one of the two has were added or removed
                since, which by convention does not change what is learned.
        """
        return [
            f"{key}: {value} -> {self.settings[key]}"
            for key, value in made_with.items()
            if key in self.settings and self.settings[key] != value
        ]


@dataclass(frozen=True)
class Cell:
    """The runs of one arm on one task of a claim, one per seed, with the evaluations that the claim needs."""

    task: str
    arm: str
    runs: tuple[Run, ...]
    evaluations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # overrides of memo evaluate, by name


def evaluation_key(overrides: Sequence[str]) -> str:
    """Return the key of an evaluation: its overrides, whatever their order."""
    return " ".join(sorted(overrides)) or "default"


def plan(claim: Claim, scale: str, train: Sequence[str] = ()) -> list[Cell]:
    """Return the runs that a claim needs.

    Args:
        claim: the claim.
        scale: scale of the runs.
        train: further overrides of ``memo train`` for all runs.

    Raises:
        UserError: if there is no such scale, or a run's overrides do not fit.
    """
    if not claim.scales:
        return []
    chosen = claim.scale(scale)
    cells: dict[tuple[str, str], Cell] = {}
    for task_name, task in chosen.tasks.items():
        for arm, own in claim.arms_of(task).items():
            where = f"{claim.name}, arm {arm} on {task_name}"
            try:
                make = _Recipe([*task.train, *own, *train])
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            before = cells.get((task.starts_from, arm))
            named = {name: tuple(claim.evaluations[name].overrides) for name in claim.evaluations_of(task, arm)}
            runs = []
            for seed in task.seeds or chosen.seeds:
                earlier = next((run for run in before.runs if run.seed == seed), None) if before else None
                if task.starts_from and earlier is None:
                    raise UserError(f"{where}: starts_from={task.starts_from}: has no run of this arm with seed {seed}")
                runs.append(make.run(seed, task.minutes, earlier, tuple(dict.fromkeys(named.values()))))
            cells[task_name, arm] = Cell(task_name, arm, tuple(runs), named)
    return list(cells.values())


def merged(cells: Sequence[Cell]) -> list[Run]:
    """Return every run once, after the run it starts from, with the evaluations that any of the cells wants."""
    found: dict[str, Run] = {}
    for wanted in (run for cell in cells for each in cell.runs for run in chain(each)):
        have = found.get(wanted.name)
        evaluations = dict.fromkeys([*(have.evaluations if have else ()), *wanted.evaluations])
        minutes = max(wanted.minutes, have.minutes if have else 0.0)
        found[wanted.name] = replace(have or wanted, evaluations=tuple(evaluations), minutes=minutes)
    return list(found.values())


def chain(run: Run) -> list[Run]:
    """Return a run preceded by those that it starts from, earliest first."""
    return [*(chain(run.starts_from) if run.starts_from else []), run]


class _Recipe:
    """Maker of the runs of an arm on a task, which share their settings across seeds."""

    def __init__(self, overrides: Sequence[str]) -> None:
        for key in map(override_key, overrides):
            if key.partition(".")[0] in _OWN:
                raise UserError(f"{key}: cannot be set, as every run sets its own")
        self._overrides = tuple(overrides)
        config = compose_config("train", overrides)
        self._settings = settings_of(config)
        chosen = {group: option for group, option in config.choices.items() if group not in _NO_CHOICE}
        default = settings_of(compose_config("train", [f"{group}={option}" for group, option in chosen.items()]))
        changes = {key: value for key, value in self._settings.items() if default.get(key, ...) != value}
        self._identity = {"choices": chosen, "changes": changes}
        self._memory, self._environment = memory_name(config), environment_name(config)

    def run(self, seed: int, minutes: float, starts_from: Run | None, evaluations: tuple[tuple[str, ...], ...]) -> Run:
        identity = {**self._identity, "seed": seed, "starts_from": starts_from.name if starts_from else None}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
        name = file_name(f"{self._memory}-{self._environment}-s{seed}-{digest}")
        parts = (self._overrides, seed, self._settings, self._memory, self._environment, minutes)
        return Run(name, *parts, starts_from, evaluations)


def settings_of(config: DictConfig) -> dict[str, Any]:
    """Return the settings that decide what a run learns, by dotted names, as JSON values."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return dict(_leaves({key: value for key, value in plain.items() if key not in _NO_MATTER}))


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
