"""Building a policy from its configuration."""

from __future__ import annotations

from omegaconf import DictConfig
from torchrl.envs import EnvBase

from memo_lightning.config import build
from memo_lightning.envs.reports import observed_spec
from memo_lightning.policies.memory_policy import MemoryPolicy


def build_policy(config: DictConfig, env: EnvBase) -> MemoryPolicy:
    """Return the policy that ``config.encoder`` and ``config.model`` describe, for the spaces of ``env``.

    Raises:
        UserError: if the settings do not fit together or do not fit the environment.
    """
    sequence_model = build(config.model)
    encoder = build(config.encoder, observed_spec(env), sequence_model.d_model)
    return MemoryPolicy(encoder, sequence_model, env.action_spec)
