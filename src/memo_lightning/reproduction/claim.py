"""Claims of ``conf/reproduce/*.yaml``: what is asserted, the runs that test it, and the rules that judge it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from memo_lightning.config import config_dir, nearest
from memo_lightning.errors import UserError, require
from memo_lightning.reproduction.metrics import EVALUATED, TRAINED

TRAINING = "training"  # in place of an evaluation's name: the end of training
PLOTS = ("learning_curves", "return_by_step", "score_against_memory", "score_against_length")
# Kind of rule -> the fields that it needs besides a bound.
KINDS = {
    "level": ("arm", "metric"),
    "every_seed": ("arm", "metric"),
    "ratio": ("arm", "against", "metric"),
    "improvement": ("arm", "against", "metric"),
    "sooner": ("arm", "against", "threshold"),
    "benchmark": ("arm", "against", "metric", "length"),
}


@dataclass
class Published:
    """Published results about a claim.

    Attributes:
        says: the numbers, in a sentence.
        source: where they were published.
    """

    says: str
    source: str


@dataclass
class Evaluation:
    """How finished runs are evaluated.

    Attributes:
        overrides: overrides of ``memo evaluate``.
        arms: arms that are evaluated this way; empty for all.
    """

    overrides: list[str] = field(default_factory=list)
    arms: list[str] = field(default_factory=list)


@dataclass
class Task:
    """What the arms are trained on.

    Attributes:
        train: overrides of ``memo train`` that all arms share.
        minutes: estimated minutes per run on one core or GPU.
        arms: arms that are trained on it, with overrides in addition to their own; empty for all arms, without any.
        seeds: seeds that replace those of the scale.
        starts_from: an earlier task; the weights are taken from its run of the same arm and seed.
        evaluations: evaluations of its runs; empty for all.
    """

    train: list[str]
    minutes: float
    arms: dict[str, list[str]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    starts_from: str = ""
    evaluations: list[str] = field(default_factory=list)


@dataclass
class Scale:
    """How large the runs are.

    Attributes:
        hardware: the hardware that it is meant for.
        seeds: seeds of every arm.
        tasks: tasks by name.
    """

    hardware: str
    seeds: list[int]
    tasks: dict[str, Task]


@dataclass
class Rule:
    """A condition for a claim to hold; with several opponents, tasks or evaluations, it must be met for each.

    Attributes:
        kind: one of :data:`KINDS`, which says what must keep the bound. ``level``: the interquartile mean over seeds;
            ``every_seed``: the value of every seed; ``ratio``: the ratio of the interquartile means of ``arm`` and an
            opponent; ``improvement``: the probability that a run of ``arm`` has a higher value than one of the
            opponent; ``sooner``: the ratio of the frames after which training reaches ``threshold``; ``benchmark``:
            the ratio of a cost in ``results/benchmark.json``, in which arms are memories.
        says: the rule in words.
        arm: the arm whose scores are judged.
        against: the opponents.
        tasks: tasks that the rule applies to; empty for all that the arms are trained on.
        evaluations: evaluations that the scores come from; empty for the end of training.
        against_evaluation: the evaluation that the opponents' scores come from, if it is a different one.
        metric: a name of :data:`~memo_lightning.reproduction.metrics.EVALUATED`, of ``TRAINED`` if there is no
            evaluation, or a cost in a benchmark.
        threshold: the return per trial that a rollout in training must reach.
        length: context length in a benchmark.
        at_least: the lower bound; a rule has either this or ``at_most``.
        at_most: the upper bound.
    """

    kind: str
    says: str
    arm: str = ""
    against: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    evaluations: list[str] = field(default_factory=list)
    against_evaluation: str = ""
    metric: str = ""
    threshold: float | None = None
    length: int | None = None
    at_least: float | None = None
    at_most: float | None = None


@dataclass
class Claim:
    """A claim.

    Attributes:
        number: the number that orders the claims, e.g. ``1b``.
        title: a title of a few words.
        question: the question that the verdict answers.
        published: published results to compare with.
        arms: arms by name, each with the overrides of ``memo train`` that define it.
        evaluations: evaluations by name.
        scales: scales by name.
        rules: rules, all of which must hold.
        plots: names of :data:`PLOTS`.
        tuned: what was tuned, for which arms, and how.
        answer: what was found, in plain words; written after the runs.
        remark: what readers of the verdict should know, above all if a rule was written or corrected after its runs.
        name: name of the file.
    """

    number: str
    title: str
    question: str
    published: Published
    rules: list[Rule]
    arms: dict[str, list[str]] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    scales: dict[str, Scale] = field(default_factory=dict)
    plots: list[str] = field(default_factory=list)
    tuned: str = "nothing: every arm has the settings of its YAML files"
    answer: str = ""
    remark: str = ""
    name: str = ""

    @property
    def order(self) -> tuple[int, str]:
        """Its place among the claims: 1b comes after 1, and 10 after 9."""
        return int("".join(filter(str.isdigit, self.number)) or 0), self.number

    def fingerprint(self, scale: str) -> str:
        """Return a hash of the rules of a scale and of their runs, which tells them from earlier ones."""
        parts = asdict(self)
        chosen = parts["scales"].get(scale, {"seeds": [], "tasks": {}})
        for described in (*parts["rules"], *chosen["tasks"].values()):
            for words in ("says", "minutes"):
                described.pop(words, None)
        made_by = [parts["rules"], parts["arms"], parts["evaluations"], chosen["seeds"], chosen["tasks"]]
        return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:10]

    def state(self, verdict: Mapping[str, Any] | None, scale: str) -> str:
        """Return the last verdict in words, marked if it was found by earlier rules."""
        if verdict is None:
            return "not run yet"
        return (
            verdict["verdict"] if self.is_by_these_rules(verdict, scale) else f"{verdict['verdict']}, by earlier rules"
        )

    def is_by_these_rules(self, verdict: Mapping[str, Any], scale: str) -> bool:
        """Return whether a verdict was found by the present rules, from the present runs and evaluations."""
        return bool(verdict["fingerprint"] == self.fingerprint(scale))

    def scale(self, name: str) -> Scale:
        """Return a scale by its name.

        Raises:
            UserError: if the claim has no scale of this name.
        """
        require(name in self.scales, "scale", name, f"one of {', '.join(self.scales)}, the scales of {self.name}")
        return self.scales[name]

    def arms_of(self, task: Task) -> dict[str, list[str]]:
        """Return the arms that are trained on a task, with all of their overrides."""
        more = task.arms or {arm: [] for arm in self.arms}
        return {arm: [*self.arms[arm], *own] for arm, own in more.items()}

    def evaluations_of(self, task: Task, arm: str) -> list[str]:
        """Return the names of the evaluations of an arm's runs on a task."""
        names = task.evaluations or list(self.evaluations)
        return [name for name in names if arm in (self.evaluations[name].arms or self.arms)]

    def places(self, rule: Rule, scale: str) -> list[tuple[str, str, str, str]]:
        """Return the places where a rule applies at a scale; there may be none.

        Returns:
            Task, evaluation, opponent (empty if the arm is judged alone) and the opponent's evaluation of each.
        """
        places = []
        for name, task in self.scales[scale].tasks.items():
            made = {(arm, e) for arm in self.arms_of(task) for e in (TRAINING, *self.evaluations_of(task, arm))}
            if rule.tasks and name not in rule.tasks:
                continue
            for evaluation in rule.evaluations or [TRAINING]:
                of_others = rule.against_evaluation or evaluation
                for opponent in rule.against or [""]:
                    if {(rule.arm, evaluation), (opponent or rule.arm, of_others)} <= made:
                        places.append((name, evaluation, opponent, of_others))
        return places

    def hours(self, scale: str) -> float:
        """Return the estimated hours of all of its runs on one core or GPU."""
        chosen = self.scales[scale]
        return sum(
            len(self.arms_of(task)) * len(task.seeds or chosen.seeds) * task.minutes / 60
            for task in chosen.tasks.values()
        )


def shipped_claims() -> dict[str, Path]:
    """Return the files of the shipped claims, by name."""
    return {path.stem: path for path in sorted((config_dir() / "reproduce").glob("*.yaml"))}


def read_claim(source: str) -> Claim:
    """Read a claim, and check it without training anything.

    Args:
        source: the name of a shipped claim, or the path of a file ``*.yaml``.

    Raises:
        UserError: if there is no such claim, or a field of it is wrong.
    """
    path = Path(source) if source.endswith(".yaml") else shipped_claims().get(source)
    if path is None:
        raise UserError(f"no such claim {source!r}: {nearest(source, shipped_claims())}")
    try:
        file = OmegaConf.load(path)
        _check_rule_fields(file)
        claim = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Claim), file))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: {_reason(error)}") from None
    if not isinstance(claim, Claim):
        raise UserError(f"{path}: must contain fields as key: value")
    claim.name = path.stem
    try:
        _check(claim)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return claim


def _check_rule_fields(file: Any) -> None:
    """Raise :class:`UserError` unless every rule has valid fields; OmegaConf does not say which rule has not."""
    listed = file.get("rules") if isinstance(file, DictConfig) else None
    for index, rule in enumerate(listed if isinstance(listed, ListConfig) else []):
        try:
            OmegaConf.merge(OmegaConf.structured(Rule), rule)
        except OmegaConfBaseException as error:
            raise UserError(f"rules[{index}].{_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return what is wrong in one line: first the field, if it is known, then the nearest field names."""
    key, known = (
        getattr(error, "full_key", None),
        getattr(getattr(error, "object_type", None), "__dataclass_fields__", {}),
    )
    message = " ".join(str(getattr(error, "msg", None) or error).split()).partition(" full_key")[0]
    if key and known and (unknown := key.rpartition(".")[2]) not in known:
        return f"{key}: no such field, {nearest(unknown, known)}"
    return f"{key}: {message}" if key else message


def _check(claim: Claim) -> None:
    """Raise :class:`UserError` unless the parts of a claim fit one another."""
    for name, evaluation in claim.evaluations.items():
        _known(f"evaluations.{name}.arms", evaluation.arms, claim.arms)
    for plot in claim.plots:
        require(plot in PLOTS, "plots", plot, f"one of {', '.join(PLOTS)}")
    require(bool(claim.rules), "rules", [], "a list of at least one rule")
    needs_runs = any(rule.kind != "benchmark" for rule in claim.rules)
    require(bool(claim.scales) or not needs_runs, "scales", {}, "at least one scale, as the rules need runs")
    for where, scale in claim.scales.items():
        require(bool(scale.seeds), f"scales.{where}.seeds", [], "a list of at least one seed")
        before: list[str] = []
        for name, task in scale.tasks.items():
            field_name = f"scales.{where}.tasks.{name}"
            _known(f"{field_name}.arms", task.arms, claim.arms)
            _known(f"{field_name}.evaluations", task.evaluations, claim.evaluations)
            earlier = f"a task listed before it: {', '.join(before) or 'there is none'}"
            require(task.starts_from in ["", *before], f"{field_name}.starts_from", task.starts_from, earlier)
            before.append(name)
    tasks = {name for scale in claim.scales.values() for name in scale.tasks}
    for index, rule in enumerate(claim.rules):
        _known(f"rules[{index}].tasks", rule.tasks, tasks)
        _check_rule(f"rules[{index}]", rule, claim)
        if rule.kind != "benchmark" and not any(claim.places(rule, scale) for scale in claim.scales):
            raise UserError(f"rules[{index}]: no run has these tasks, evaluations and arms together")
    for where in claim.scales:
        if not any(rule.kind == "benchmark" or claim.places(rule, where) for rule in claim.rules):
            raise UserError(f"scales.{where}: no rule uses its runs")


def _check_rule(where: str, rule: Rule, claim: Claim) -> None:
    require(rule.kind in KINDS, f"{where}.kind", rule.kind, f"one of {', '.join(KINDS)}")
    for name in KINDS[rule.kind]:
        require(bool(getattr(rule, name)), f"{where}.{name}", getattr(rule, name), f"set for kind={rule.kind}")
    bounds = [bound for bound in (rule.at_least, rule.at_most) if bound is not None]
    if len(bounds) != 1:
        raise UserError(f"{where}: must have either at_least or at_most, not both")
    if rule.kind == "benchmark":
        return
    _known(f"{where}.arm", [rule.arm], claim.arms)
    _known(f"{where}.against", rule.against, claim.arms)
    others = [rule.against_evaluation] if rule.against_evaluation else []
    _known(f"{where}.evaluations", [*rule.evaluations, *others], claim.evaluations)
    if rule.kind != "sooner":
        metrics = EVALUATED if rule.evaluations else TRAINED
        require(rule.metric in metrics, f"{where}.metric", rule.metric, f"one of {', '.join(metrics)}")


def _known(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(f"{where}={name!r}: {nearest(name, known)}")
