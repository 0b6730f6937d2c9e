"""The parts of a training run, built from its configuration and checked against each other before it begins."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf
from torchrl.envs import EnvBase

from memo_lightning.algorithms import Algorithm
from memo_lightning.config import build
from memo_lightning.data import RolloutDataModule
from memo_lightning.envs.build import build_env, observes_reward
from memo_lightning.envs.interface import interface_of
from memo_lightning.errors import UserError, require
from memo_lightning.models import SequenceModel
from memo_lightning.models.checks import check_memory, steps_to_check
from memo_lightning.models.compiled import is_compilable
from memo_lightning.policies import MemoryPolicy, PolicySpec
from memo_lightning.policies.spec import build_memory as memory_from_settings

# Defaults of conf/model/ with an upper limit: segments are no longer than rollouts, and summaries than segments.
_FOLLOWING = {"segment_length": "collector.rollout_length", "summary_length": "model.segment_length"}


_STEPS_TO_CHECK = 128  # at most, to check a memory from outside the package before each training run


class MemorySwap(Protocol):
    """Interface of a baseline: a callback that puts another memory into the policy before anything is built on it."""

    memory: dict[str, Any]
    model: SequenceModel

    def check(self, policy: MemoryPolicy) -> None:
        """Raise :class:`UserError` unless the memory fits the policy."""
        ...


@dataclass(frozen=True)
class Parts:
    """The parts of a training run, except its Trainer.

    Attributes:
        data: the data module that provides the batches.
        algorithm: the algorithm that learns from them.
        policy: the policy, with the memory of the ``model`` group; a baseline replaces it in the Trainer's ``setup``.
        baseline: the callback that replaces the memory; None for none.
        spec: the parts of the final policy, with the memory that is trained.
        remarks: lines that tell the user about defaults chosen for them.
    """

    data: RolloutDataModule
    algorithm: Algorithm
    policy: MemoryPolicy
    baseline: MemorySwap | None
    spec: PolicySpec
    remarks: Sequence[str]

    @property
    def model(self) -> SequenceModel:
        """The memory that is trained."""
        return self.baseline.model if self.baseline else self.policy.sequence_model


def build_parts(config: DictConfig) -> Parts:
    """Build the parts of a training run, and check that they fit together.

    Args:
        config: a configuration of ``memo train``.

    Raises:
        UserError: if a part rejects its settings, or two parts do not fit together.
    """
    algorithm: Algorithm = build(config.algorithm)
    n_envs = config.collector.get("n_envs")
    if isinstance(n_envs, int) and n_envs >= 1:
        algorithm.check_n_envs(n_envs)  # before building environments, which may take long
    if "n_workers" in config.collector:
        allowed = f"0 with collector={config.choices.collector}, whose workers are processes that step the environments"
        require(not config.env.get("workers"), "env.workers", config.env.get("workers"), allowed)
    data: RolloutDataModule = build(
        config.collector, partial(build_env, config.env), total_frames=config.total_frames, seed=config.seed
    )
    try:
        algorithm.check_data(data)
        algorithm.check_trial_length(longest_trial(config))
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        spec = policy_spec(plain, data.env, algorithm)
        policy = spec.build()
        baseline = build_baseline(plain)
        if baseline:
            baseline.check(policy)
            spec = replace(spec, memory=baseline.memory)
        parts = Parts(data, algorithm, policy, baseline, spec, _remarks(config))
        check_trial_length(parts.model, data.rollout_length, plain["baseline"] or {})
        _check_effects(config, parts)
        if not type(parts.model).__module__.startswith("memo_lightning."):
            _check_own_memory(parts.model, data.rollout_length)
    except UserError:
        data.env.close(raise_if_closed=False)
        raise
    return parts


def policy_spec(config: Mapping[str, Any], env: EnvBase, algorithm: Algorithm) -> PolicySpec:
    """Return the spec of a policy for ``env``, with the memory of the ``model`` group.

    Args:
        config: a resolved configuration of ``memo train``.
        env: the environment.
        algorithm: the algorithm, which determines the policy's heads.

    Raises:
        UserError: if observations or actions of the environment are not supported.
    """
    heads = type(algorithm).heads
    return PolicySpec(
        interface_of(env, observes_reward=observes_reward(config["env"])),
        config["encoder"],
        config["model"],
        f"{heads.__module__}.{heads.__qualname__}",
        config["env"].get("normalize_observations", False),
        config["env"].get("normalize_rewards", False),
    )


def build_baseline(config: Mapping[str, Any]) -> MemorySwap | None:
    """Return the callback of the ``baseline`` group, which takes over the sizes of the ``model`` group, or None."""
    return build(config["baseline"], shared=config["model"]) if config["baseline"] else None


def build_memory(config: Mapping[str, Any]) -> SequenceModel:
    """Return the memory that would be trained, with fresh weights: from the ``baseline`` group, or else ``model``.

    Raises:
        UserError: if it rejects its settings.
    """
    baseline = build_baseline(config)
    return baseline.model if baseline else memory_from_settings(config["model"])


def _remarks(config: DictConfig) -> list[str]:
    """Return remarks about defaults that follow other settings, and about settings with which little is learned."""
    limits = {"segment_length": config.collector.rollout_length, "summary_length": config.model.get("segment_length")}
    remarks = [
        f"model.{name}={config.model[name]}: the default, limited by {_FOLLOWING[name]}"
        for name, limit in limits.items()
        if OmegaConf.is_interpolation(config.model, name) and config.model[name] == limit
    ]
    starts = config.algorithm.get("learning_starts", 0)
    if starts >= config.total_frames:
        total = f"total_frames={config.total_frames}"
        remarks.append(f"algorithm.learning_starts={starts}: not before {total}, so nothing is learned")
    length, trial_length = config.collector.rollout_length, config.env.get("trial_length") or 0
    if length < trial_length:
        whole = f"env.trial_length={trial_length}"
        remarks.append(f"collector.rollout_length={length}: below {whole}, so no whole trial is learned from")
    return remarks


def _check_effects(config: DictConfig, parts: Parts) -> None:
    """Refuse settings that would have no effect."""
    allowed = f"false with {type(parts.model).__name__}, which has no MLPs to compile"
    require(not config.compile or is_compilable(parts.model), "compile", True, allowed)
    allowed = "false, as the environment has no observation vectors; images are not normalised"
    has_vectors = any(key.is_vector for key in parts.spec.interface.keys)
    require(not parts.spec.normalize_observations or has_vectors, "env.normalize_observations", True, allowed)


def longest_trial(config: DictConfig) -> int:
    """Return the most steps that a trial can have in a rollout."""
    rollout_length = config.collector.rollout_length
    return min(rollout_length, config.env.get("trial_length") or rollout_length)


def check_trial_length(model: SequenceModel, rollout_length: int, baseline: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` if the memory does not fit rollouts of ``rollout_length`` steps.

    Args:
        model: the memory.
        rollout_length: steps of a rollout.
        baseline: settings of the ``baseline`` group, which tells where a setting of the memory stands.
    """
    try:
        model.check_trial_length(rollout_length)
    except ValueError as error:
        setting = str(error).partition("=")[0]
        group = "baseline" if setting in baseline else "model"
        remedy = f"; set {group}.{setting}={rollout_length}" if setting == "segment_length" else ""
        raise UserError(f"{group}.{error}{remedy}") from None


def _check_own_memory(model: SequenceModel, rollout_length: int) -> None:
    """Reject a user's memory if it has bugs that training would not reveal, since it would still learn and report."""
    n_steps = steps_to_check(model, min(rollout_length, _STEPS_TO_CHECK))
    for finding in check_memory(partial(copy.deepcopy, model), n_steps, thorough=False):
        if finding.problem:
            raise UserError(
                f"{type(model).__module__}.{type(model).__qualname__}: {finding.problem}; to run all checks, use "
                f"memo check-memory with the same settings"
            )
