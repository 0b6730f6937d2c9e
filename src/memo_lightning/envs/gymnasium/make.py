"""Construction of Gymnasium environments from the configuration."""

from __future__ import annotations

import difflib
import importlib
import shlex
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from memo_lightning.construct import construct, resolve
from memo_lightning.errors import UserError, require

Wrapper = Callable[[gymnasium.Env], gymnasium.Env]


def action_names_of(env: gymnasium.Env) -> tuple[str, ...]:
    """Return the names of an environment's actions, in order; empty if it does not name them.

    An environment names them in an attribute ``action_names``, by ``get_action_meanings()`` as Atari does, or by an
    enumeration ``actions`` as MiniGrid does.
    """
    own = env.unwrapped
    names = getattr(own, "action_names", None)
    if names is None and callable(getattr(own, "get_action_meanings", None)):
        names = own.get_action_meanings()  # type: ignore[attr-defined]
    if names is None and isinstance(actions := getattr(own, "actions", None), type) and issubclass(actions, Enum):
        names = [action.name for action in actions]
    return tuple(str(name).replace("_", " ").lower() for name in names or ())


def make_from_id(id: str | None, settings: dict[str, Any], episode_length: int | None) -> gymnasium.Env:
    """Make a registered environment, set up to render images if it can.

    Args:
        id: as ``gymnasium.make`` takes it, e.g. ``CartPole-v1``, or ``my.module:MyEnv-v0`` to import the module that
            registers it.
        settings: arguments of the environment.
        episode_length: steps after which an episode is truncated; None for the registered limit.

    Raises:
        UserError: if the environment does not exist, cannot be imported, or does not take the settings.
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
            f"env.id={id}: no such environment; {hint}if another package registers it, prefix that package, e.g. "
            f"env.id=minigrid:MiniGrid-MemoryS7-v0"
        ) from None
    except Exception as error:  # importing runs the user's module, which may raise anything
        raise UserError(f"env.id={id}: {module} cannot be imported ({' '.join(str(error).split())})") from error
    limit = {} if episode_length is None else {"max_episode_steps": episode_length}
    try:
        assert spec.entry_point is not None
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        if "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", ()):
            settings = {"render_mode": "rgb_array", **settings}
        # Gymnasium's own checker warns at every step of what `memo check-env` reports once.
        return gymnasium.make(spec, disable_env_checker=True, **limit, **settings)
    except TypeError as error:
        raise UserError(f"env.settings={settings}: {error}") from error
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise UserError(f"env.id={id}: {error}") from error


def make_limited(make: Callable[[], gymnasium.Env], episode_length: int | None) -> gymnasium.Env:
    """Make an unregistered environment whose episodes are truncated after ``episode_length`` steps.

    Raises:
        UserError: if the environment itself truncates them earlier.
    """
    env = make()
    if episode_length is None:
        return env
    own = env.spec.max_episode_steps if env.spec else None
    if own is not None and own < episode_length:
        raise UserError(
            f"env.episode_length={episode_length}: must be at most {own}, the environment's own time limit; to raise "
            f"that limit, pass max_episode_steps to gymnasium.make"
        )
    return gymnasium.wrappers.TimeLimit(env, episode_length)


def make_wrapped(make: Callable[[], gymnasium.Env], wrappers: Sequence[str | Wrapper]) -> gymnasium.Env:
    """Make an environment and wrap it.

    Args:
        make: function that makes the environment.
        wrappers: dotted paths or callables, applied in this order.

    Raises:
        UserError: if a wrapper does not exist, or does not take the environment or its arguments.
    """
    env = make()
    for wrapper in wrappers:
        function = resolve("env.wrappers", wrapper) if isinstance(wrapper, str) else wrapper
        require(callable(function), "env.wrappers", wrapper, "functions or classes that wrap an environment")
        env = _wrap(function, env)
    return env


def _wrap(wrapper: Wrapper, env: gymnasium.Env) -> gymnasium.Env:
    target = wrapper.func if isinstance(wrapper, partial) else wrapper
    arguments = wrapper.keywords if isinstance(wrapper, partial) else {}
    name = f"{target.__module__}.{target.__qualname__}"
    try:
        wrapped = construct(target, env, **arguments)
    except UserError as error:
        raise UserError(
            f"env.wrappers: {error}; pass arguments as "
            f"{shlex.quote(f'env.wrappers=[{{_target_: {name}, NAME: VALUE}}]')}"
        ) from None
    except (AssertionError, TypeError) as error:  # how Gymnasium's own wrappers refuse an environment
        raise UserError(f"env.wrappers: {name}: {' '.join(str(error).split())}") from error
    if not isinstance(wrapped, gymnasium.Env):
        raise UserError(f"env.wrappers: {name} returned a {type(wrapped).__name__}; must return a gymnasium.Env")
    return wrapped
