"""Building an environment from its configuration, with the transforms that every policy relies on."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig
from torchrl.envs import Compose, EnvBase, InitTracker, TransformedEnv

from memo_lightning.config import build
from memo_lightning.envs.previous_step import PreviousStep


def build_env(config: DictConfig | dict[str, Any], n_envs: int, seed: int, **changes: Any) -> EnvBase:
    """Return ``n_envs`` batched environments with RL^2 inputs and ``is_init`` flags, seeded.

    Args:
        config: a node of ``conf/env/``; its ``vision``, if it has one, is a transform that comes first, and
            ``observe_reward: false`` leaves the last reward out of the RL^2 inputs.
        n_envs: number of environments N, the batch size.
        seed: seed of their random streams.
        changes: settings to be used instead of the configured ones, e.g. ``split="held_out"``.

    Raises:
        UserError: if a setting is out of range.
    """
    settings = {str(key): value for key, value in config.items()}
    vision = settings.pop("vision", None)
    previous_step = PreviousStep(with_reward=settings.pop("observe_reward", True))
    transforms = [*([build(vision)] if vision else []), previous_step, InitTracker()]
    env = TransformedEnv(build(settings, n_envs=n_envs, **changes), Compose(*transforms))
    env.set_seed(seed)
    return env
