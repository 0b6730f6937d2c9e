"""What an environment and a policy have in common, read off the environment."""

from __future__ import annotations

from gymnasium import spaces
from torchrl.envs import EnvBase

from memo_lightning.policies.action import ACTION_MASK, action_of_spec
from memo_lightning.policies.encoders import OBSERVATION
from memo_lightning.policies.observation_keys import keys_of_spec
from memo_lightning.policies.spec import Interface


def interface_of(env: EnvBase, *, observes_reward: bool = True) -> Interface:
    """Return the interface of an environment whose steps are laid out as :mod:`memo_lightning.envs.reports` says.

    A Gymnasium environment says itself how its observations and actions are stored; of others the specs tell.

    Raises:
        UserError: if observations or actions of its kind are not supported.
    """
    spec = env.observation_spec[OBSERVATION]
    n_batch_dims = len(env.batch_size)
    own: Interface | None = getattr(env.base_env if hasattr(env, "base_env") else env, "interface", None)
    if own is not None and {key.name for key in own.keys} == set(spec.keys()):
        return Interface(own.observation_space, own.keys, own.action, observes_reward)
    keys = keys_of_spec(spec, n_batch_dims)  # a transform may have put others in the place of the environment's own
    alone = len(keys) == 1 and not keys[0].path
    space = keys[0].space if alone else spaces.Dict({key.name: key.space for key in keys})
    masked = ACTION_MASK in env.observation_spec.keys()
    action = own.action if own is not None else action_of_spec(env.action_spec, n_batch_dims, masked=masked)
    return Interface(space, keys, action, observes_reward)
