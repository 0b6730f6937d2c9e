"""Making Gymnasium environments from what the configuration says."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from memo_lightning.construct import resolve
from memo_lightning.errors import UserError

Wrapper = Callable[[gymnasium.Env], gymnasium.Env]


def make_from_id(
    id: str | None, settings: dict[str, Any], wrappers: Sequence[str | Wrapper], episode_length: int | None
) -> gymnasium.Env:
    """Make a registered environment, ready to be rendered to images where it can be.

    Args:
        id: as ``gymnasium.make`` takes it, e.g. ``CartPole-v1``, or ``my.module:MyEnv-v0`` to import the module that
            registers it.
        settings: its arguments.
        wrappers: applied in this order; dotted paths, or callables.
        episode_length: steps after which an episode is truncated; None for what is registered.

    Raises:
        UserError: if there is no such environment or wrapper, or it does not take the settings.
    """
    if not id:
        raise UserError("env.id=null: must be the id of a registered environment, e.g. env.id=CartPole-v1")
    module, _, name = id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        spec = gymnasium.spec(name)
    except gymnasium.error.Error:
        close = difflib.get_close_matches(name, gymnasium.registry, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(
            f"env.id={id}: no such environment; {hint}one of another package is named with it, e.g. "
            f"minigrid:MiniGrid-MemoryS7-v0"
        ) from None
    except Exception as error:  # importing runs the user's module, which may raise anything
        raise UserError(f"env.id={id}: {module} cannot be imported ({' '.join(str(error).split())})") from error
    limit = {} if episode_length is None else {"max_episode_steps": episode_length}
    try:
        assert spec.entry_point is not None
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        if "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", ()):
            settings = {"render_mode": "rgb_array", **settings}
        # Gymnasium's own checker warns at every step of what `memo check-env` says once.
        env = gymnasium.make(spec, disable_env_checker=True, **limit, **settings)
    except TypeError as error:
        raise UserError(f"env.settings={settings}: {error}") from error
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise UserError(f"env.id={id}: {error}") from error
    for wrapper in wrappers:
        env = (resolve("env.wrappers", wrapper) if isinstance(wrapper, str) else wrapper)(env)
    return env
