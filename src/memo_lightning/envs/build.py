"""Construction of environments from their configuration, with the transforms that every policy relies on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torchrl.data import Composite
from torchrl.envs import Compose, EnvBase, InitTracker, TransformedEnv

from memo_lightning.config import build
from memo_lightning.envs.global_streams import GlobalStreams
from memo_lightning.envs.interface import interface_of
from memo_lightning.envs.previous_step import PreviousStep
from memo_lightning.errors import UserError
from memo_lightning.policies.encoders import OBSERVATION

# Settings of conf/env/ that belong to the policy, which normalises its inputs.
_OF_THE_POLICY = ("normalize_observations", "normalize_rewards")


def build_env(config: DictConfig | dict[str, Any], n_envs: int, seed: int, **changes: Any) -> EnvBase:
    """Return a seeded batch of ``n_envs`` environments with RL^2 inputs and ``is_init`` flags.

    Args:
        config: a node of ``conf/env/``; its ``vision``, if any, is a transform that is applied first, and
            ``observe_reward: false`` leaves the last reward out of the RL^2 inputs.
        n_envs: number of environments N, the batch size.
        seed: seed of their random streams.
        changes: settings that override the configured ones, e.g. ``split="held_out"``.

    Raises:
        UserError: if a setting is out of range.
    """
    settings = {str(key): value for key, value in config.items() if key not in _OF_THE_POLICY}
    vision, with_reward = settings.pop("vision", None), settings.pop("observe_reward", True)
    if "wrappers" in settings:  # arguments are bound here; the environment follows when it is made
        settings["wrappers"] = [_as_partial(wrapper) for wrapper in settings["wrappers"]]
    with GlobalStreams(seed).in_use():  # making an environment may also seed torch
        env = build(settings, n_envs=n_envs, **changes)
        if vision:
            _check_images(env)
            env = TransformedEnv(env, build(vision))
    previous_step = PreviousStep(interface_of(env).action, with_reward=with_reward)
    env = TransformedEnv(env, Compose(previous_step, InitTracker()))
    env.set_seed(seed)
    return env


def in_this_process(config: DictConfig | dict[str, Any], n_envs: int) -> dict[str, int]:
    """Return the overrides of ``config`` that make ``n_envs`` environments in this process instead of in workers.

    A process can hold only one habitat-sim, so several get a worker each.
    """
    if config.get("simulator") == "habitat_sim" and n_envs > 1:
        return {"workers": n_envs}
    return {"workers": 0} if config.get("workers") else {}


def _check_images(env: EnvBase) -> None:
    """Raise :class:`UserError` if no observation is an image."""
    observed = env.observation_spec[OBSERVATION]
    specs = observed.values(True, True) if isinstance(observed, Composite) else [observed]
    if not any(spec.dtype == torch.uint8 and spec.ndim == len(env.batch_size) + 3 for spec in specs):
        raise UserError("env/vision=vit: the environment has no image observations; leave it out")


def _as_partial(wrapper: Any) -> Any:
    return {**wrapper, "_partial_": True} if isinstance(wrapper, Mapping) else wrapper


def observes_reward(config: DictConfig | dict[str, Any]) -> bool:
    """Return whether the environment that ``config`` describes has the last reward among its RL^2 inputs."""
    return bool(config.get("observe_reward", True))
