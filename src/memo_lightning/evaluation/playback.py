"""Playback of one trial, for the video and the inspector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDictBase
from torchrl.envs import EnvBase
from torchrl.envs.utils import step_mdp

from memo_lightning.errors import UserError
from memo_lightning.policies import MemoryPolicy

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class PlayedStep:
    """One step of one environment.

    Attributes:
        inputs: inputs of the policy, ``[1]``.
        taken: outputs of the policy, ``[1]``: its ``out_keys``.
        after: what the environment returned, ``[1]``.
    """

    inputs: TensorDictBase
    taken: TensorDictBase
    after: TensorDictBase

    @property
    def reward(self) -> float:
        """The reward of the step."""
        return float(self.after["reward"])

    @property
    def ends_episode(self) -> bool:
        """Whether the step ends an episode."""
        return bool(self.after["episode_end"])

    @property
    def ends_trial(self) -> bool:
        """Whether the step ends the trial."""
        return bool(self.after["done"])


@dataclass(frozen=True)
class Moment:
    """The environment after the reset, or after a step.

    Attributes:
        step: the step that led here; None after the reset.
        image: image of the environment now, uint8 ``[H, W, 3]``; None if it cannot be drawn, or if the trial is over
            and ``ending`` shows how.
        ending: image at the end of the episode, if the step ended one; None if there is no such image.
    """

    step: PlayedStep | None
    image: Image | None
    ending: Image | None = None


@torch.no_grad()
def play_trial(env: EnvBase, policy: MemoryPolicy, max_steps: int | None = None) -> Iterator[Moment]:
    """Play one trial and yield its moments: after the reset, and after every step.

    Args:
        env: a single environment; its innermost one may have ``image(index) -> uint8 [H, W, 3]``, ``watch()`` and
            ``last_image(index)``, as :class:`~memo_lightning.envs.trial_env.TrialEnv` has.
        policy: the policy that acts; TorchRL's exploration type decides whether it samples.
        max_steps: steps after which to stop, if the trial has not ended; None for the whole trial.

    Raises:
        UserError: if an image is not uint8 ``[H, W, 3]``.
    """
    watched = hasattr(env.base_env, "image") and hasattr(env.base_env, "watch")
    if watched:
        env.base_env.watch()
    policy.reset_state()
    td = env.reset()
    yield Moment(None, _image(env))
    n_steps, done = 0, False
    while not done and (max_steps is None or n_steps < max_steps):
        taken = policy(td.copy()).select(*policy.out_keys)
        after = env.step(td.update(taken.select("action").to(env.device or "cpu")))["next"]
        step, n_steps = PlayedStep(td, taken, after), n_steps + 1
        done = step.ends_trial
        ending = env.base_env.last_image(0) if step.ends_episode and watched else None
        ending = None if ending is None or ending.dtype == object else _checked(ending)
        yield Moment(step, _image(env) if ending is None or not done else None, ending)
        td = step_mdp(td.set("next", after))


def _image(env: EnvBase) -> Image | None:
    """Return an image of the environment, or None if it cannot be drawn."""
    image = env.base_env.image(0) if hasattr(env.base_env, "image") else None
    # Gymnasium environments that draw nothing return None.
    return None if image is None or image.dtype == object else _checked(image)


def _checked(image: Image) -> Image:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UserError(f"render=true: the image has shape {image.shape}, {image.dtype}; must be uint8 [H, W, 3]")
    return image
