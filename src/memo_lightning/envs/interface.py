"""The interface between an environment and a policy, read from the environment."""

from __future__ import annotations

from gymnasium import spaces
from torchrl.envs import EnvBase

from memo_lightning.policies.action import ACTION_MASK, action_of_spec
from memo_lightning.policies.encoders import OBSERVATION
from memo_lightning.policies.observation_keys import keys_of_spec
from memo_lightning.policies.spec import Interface


def interface_of(env: EnvBase, *, observes_reward: bool = True) -> Interface:
    """Return the interface of an environment whose steps follow the layout of :mod:`memo_lightning.envs.reports`.

    An environment may state in ``interface`` how its observations and actions are stored; otherwise the specs tell.

    Raises:
        UserError: if its kind of observations or actions is not supported.
    """
    spec = env.observation_spec[OBSERVATION]
    n_batch_dims = len(env.batch_size)
    own: Interface | None = getattr(env.base_env if hasattr(env, "base_env") else env, "interface", None)
    if own is not None and {key.name for key in own.keys} == set(spec.keys()):
        return Interface(own.observation_space, own.keys, own.action, observes_reward)
    keys = keys_of_spec(spec, n_batch_dims)  # a transform may have replaced the environment's own
    alone = len(keys) == 1 and not keys[0].path
    space = keys[0].space if alone else spaces.Dict({key.name: key.space for key in keys})
    masked = ACTION_MASK in env.observation_spec.keys()
    action = own.action if own is not None else action_of_spec(env.action_spec, n_batch_dims, masked=masked)
    return Interface(space, keys, action, observes_reward)
