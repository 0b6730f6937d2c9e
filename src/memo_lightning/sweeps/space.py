"""The search space of a study: which settings vary, within which bounds, and under which conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from memo_lightning.config import build, compose_config, nearest
from memo_lightning.construct import construct
from memo_lightning.errors import UserError, require
from memo_lightning.overrides import parse_override, quoted
from memo_lightning.policies.spec import build_memory
from memo_lightning.training.parts import build_baseline, check_trial_length, longest_trial
from memo_lightning.training.trainer import check_trainer_settings

_DISTRIBUTIONS = {"float": FloatDistribution, "int": IntDistribution, "categorical": CategoricalDistribution}


@dataclass(frozen=True)
class Parameter:
    """A setting that varies.

    Attributes:
        key: the setting, as on the command line of ``memo train``.
        distribution: the distribution that it is drawn from.
        when: earlier parameters, and the values that they must have for this one to be drawn at all.
    """

    key: str
    distribution: BaseDistribution
    when: Mapping[str, Sequence[Any]]

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Return whether this parameter is drawn, given the ``values`` drawn before it."""
        return all(key in values and values[key] in allowed for key, allowed in self.when.items())

    def draw(self, trial: Trial) -> Any:
        """Let the study's sampler choose a value."""
        chosen = self.distribution
        if isinstance(chosen, FloatDistribution):
            return trial.suggest_float(self.key, chosen.low, chosen.high, step=chosen.step, log=chosen.log)
        if isinstance(chosen, IntDistribution):
            return trial.suggest_int(self.key, chosen.low, chosen.high, step=chosen.step, log=chosen.log)
        assert isinstance(chosen, CategoricalDistribution)
        return trial.suggest_categorical(self.key, chosen.choices)

    def extremes(self) -> Sequence[Any]:
        """Return the values to check to know that the setting accepts all of them: the bounds, or every choice."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.distribution.choices
        return [self.distribution.low, self.distribution.high]  # type: ignore[attr-defined]


def parse_space(space: Mapping[str, Mapping[str, Any]]) -> list[Parameter]:
    """Read the ``space`` of a study file.

    Raises:
        UserError: if it is empty, or a distribution or condition is wrong.
    """
    require(
        bool(space), "space", dict(space), "a mapping of at least one setting, e.g. algorithm.gamma: {type: float, ...}"
    )
    parameters: list[Parameter] = []
    for key, description in space.items():
        parameters.append(_parse_parameter(key, description, [parameter.key for parameter in parameters]))
    return parameters


def draw(space: Sequence[Parameter], trial: Trial) -> dict[str, Any]:
    """Let the study's sampler choose a value of every parameter that applies."""
    values: dict[str, Any] = {}
    for parameter in space:
        if parameter.applies(values):
            values[parameter.key] = parameter.draw(trial)
    return values


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Return the values as overrides of ``memo train``."""
    return [f"{key}={_as_text(value)}" for key, value in values.items()]


def check_space(space: Sequence[Parameter], train: Sequence[str]) -> None:
    """Check that ``memo train`` knows every key, and accepts every bound and choice with the settings that are fixed.

    Parts that are cheap to build are built. A value is accepted if it works with the defaults of the other parameters,
    with all of their lowest or first values, or with all of their highest or last.

    Args:
        space: the parameters that vary.
        train: overrides that all trials share.

    Raises:
        UserError: if a key does not exist, does not accept a value, or is fixed as well.
    """
    fixed = {override.partition("=")[0].lstrip("+") for override in train}
    for parameter in space:
        if parameter.key in fixed:
            raise UserError(f"space.{parameter.key}: is also set by the study's train overrides; remove one of the two")
        for value in parameter.extremes():
            errors = []
            for others in _with_others(parameter, space):
                try:
                    _build_parts(compose_config("train", [*train, *as_overrides({**others, parameter.key: value})]))
                    break
                except UserError as error:
                    errors.append(error)
            else:
                raise UserError(f"space.{parameter.key}={_as_text(value)}: {errors[0]}")


def _parse_parameter(key: str, description: Mapping[str, Any], earlier: Sequence[str]) -> Parameter:
    name = f"space.{key}"
    if not isinstance(description, Mapping) or description.get("type") not in _DISTRIBUTIONS:
        given = description.get("type") if isinstance(description, Mapping) else description
        raise UserError(f"{name}.type={given!r}: must be one of {', '.join(_DISTRIBUTIONS)}")
    settings = dict(description)
    distribution, when = _DISTRIBUTIONS[settings.pop("type")], settings.pop("when", {})
    if distribution is IntDistribution:
        for bound in ("low", "high", "step"):
            value = settings.get(bound, 1)
            require(isinstance(value, int) and not isinstance(value, bool), f"{name}.{bound}", value, "an integer")
    for other in when:
        if other not in earlier:
            hint = nearest(other, earlier) if earlier else "there is none"
            raise UserError(f"{name}.when.{other}: must be a setting listed before this one; {hint}")
    if distribution is CategoricalDistribution:
        settings = _with_plain_choices(name, settings)
    try:
        chosen = construct(distribution, **settings)
    except (UserError, TypeError) as error:
        raise UserError(f"{name}: {' '.join(str(error).split())}") from None
    return Parameter(key, chosen, {k: [*map(as_choice, v if isinstance(v, list) else [v])] for k, v in when.items()})


def _with_others(parameter: Parameter, space: Sequence[Parameter]) -> Iterator[dict[str, Any]]:
    """Yield values of the other parameters to try with ``parameter``: only those it needs, then their extremes."""
    needed = _context(parameter, space)
    yield needed
    for end in (0, -1):
        values: dict[str, Any] = {}
        for other in space:
            if other.key == parameter.key:
                continue
            if other.key in needed:
                values[other.key] = needed[other.key]
            elif other.applies(values):
                values[other.key] = other.extremes()[end]
        if values != needed:
            yield values


def _build_parts(config: DictConfig) -> None:
    """Build the memory and the algorithm as training would, so that they reject wrong settings."""
    check_trainer_settings(config.trainer)
    algorithm = build(config.algorithm)
    algorithm.check_n_envs(config.collector.n_envs)
    algorithm.check_trial_length(longest_trial(config))
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    baseline, model = build_baseline(plain), build_memory(plain["model"])
    memory = baseline.model if baseline else model
    check_trial_length(memory, config.collector.rollout_length, plain["baseline"] or {})


def _context(parameter: Parameter, space: Sequence[Parameter]) -> dict[str, Any]:
    """Return values of other parameters under which ``parameter`` applies."""
    by_key = {other.key: other for other in space}
    values: dict[str, Any] = {}
    for key, allowed in parameter.when.items():
        values |= {**_context(by_key[key], space), key: allowed[0]}
    return values


def _with_plain_choices(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a categorical distribution, with choices that Optuna can store, compare and plot.

    Raises:
        UserError: if a choice is a mapping, which an override would merge with the default instead of replacing it.
    """
    choices = settings.get("choices")
    if not isinstance(choices, list):
        return dict(settings)  # its constructor rejects them
    for choice in choices:
        if isinstance(choice, Mapping):
            raise UserError(
                f"{name}.choices: {choice} is a mapping; must be numbers, words, true, false, null or lists of these "
                f"(to vary a setting in it, use {name}.NAME)"
            )
    return {**settings, "choices": [*map(as_choice, choices)]}


def as_choice(value: Any) -> Any:
    """Return a choice in a form that Optuna accepts: it has no lists, so a list becomes its text in an override."""
    return _as_text(value) if isinstance(value, list) else value


def _as_text(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_as_text, value))}]"
    return _word_as_text(value) if isinstance(value, str) else str(value)


def _word_as_text(word: str) -> str:
    """Return a word, quoted if an override would otherwise misread it or could not be parsed."""
    try:  # in a list, where more characters have a special meaning
        values = parse_override(f"key=[{word}]").value()
    except UserError:
        return quoted(word)
    assert isinstance(values, list)
    fits = len(values) == 1 and (not isinstance(values[0], str) or values[0] == word)
    return word if fits else quoted(word)
