"""What environments say of the trial and the episode a step belongs to, beside what is observed."""

from __future__ import annotations

from torchrl.data import Composite
from torchrl.envs import EnvBase

# What every environment says of the episode that a step belongs to.
REPORTS = ("episode_end", "episode_return", "episode_length", "success")
_BOOKKEEPING = ("is_init", "step_count")  # of TorchRL's transforms


def reports_of(env: EnvBase) -> tuple[str, ...]:
    """Return the entries that are no part of what is seen: the environment's ``reports``, and TorchRL's own."""
    return (*getattr(env, "reports", REPORTS), *_BOOKKEEPING)


def observed_spec(env: EnvBase) -> Composite:
    """Return the spec of what a policy may read."""
    hidden = reports_of(env)
    entries = {key: spec for key, spec in env.observation_spec.items() if key not in hidden}
    return Composite(entries, shape=env.observation_spec.shape, device=env.observation_spec.device)
