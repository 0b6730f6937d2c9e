"""Natively batched environments whose trials hold many episodes of one task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from memo_lightning.envs.drawing import Shape
from memo_lightning.envs.random_streams import draw_below, stream_keys
from memo_lightning.errors import require

SPLITS = ("train", "held_out", "all")


class TrialEnv(EnvBase):
    """N environments stepped together as tensors; a trial is a sequence of episodes of one task.

    When an episode ends, the next one begins in the same step: the observation that comes with the last reward is
    already the first of the next episode. Only the end of a trial is ``done``; the reset that follows draws a new
    task. Each environment draws its tasks from its own random stream, so they depend on the seed and its index, not
    on the number of environments.

    Besides ``("observation", "observation")``, each step reports ``episode_end`` and, for the episode that the step
    belongs to, ``episode_return``, ``episode_length`` and ``success``; all ``[N, 1]``. An episode that the end of the
    trial cuts off does not count as ended.

    An episode ends at success or after ``episode_length`` steps; if ``success_ends_episode`` is false, only after
    ``episode_length`` steps. The limits are part of the task, and :meth:`_observe` is given the elapsed time of the
    episode, so they are true ends: ``terminated``, never ``truncated``, with nothing more to earn afterwards.

    Subclasses hold the tasks and the dynamics in tensors with a leading dimension N, and implement
    :meth:`_begin_tasks`, :meth:`_begin_episodes`, :meth:`_advance`, :meth:`_observe` and :meth:`image`.

    Args:
        n_envs: number of environments N.
        n_actions: number of discrete actions.
        observation_size: width of the ``observation`` vector.
        n_tasks: number of different tasks that can be drawn.
        episode_length: steps after which an episode ends.
        trial_length: steps after which a trial ends.
        seed: seed of all streams.
        device: device of all tensors.

    Raises:
        UserError: if a length or ``n_envs`` is not positive, or an episode is longer than a trial.
    """

    success_ends_episode: ClassVar[bool] = True
    legend: ClassVar[tuple[Shape, ...]] = ()  # what :meth:`image` shows
    action_names: ClassVar[tuple[str, ...]] = ()  # names of the actions, in order

    def __init__(
        self,
        *,
        n_envs: int,
        n_actions: int,
        observation_size: int,
        n_tasks: int,
        episode_length: int,
        trial_length: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        require(n_envs >= 1, "n_envs", n_envs, "at least 1")
        require(trial_length >= 1, "env.trial_length", trial_length, "at least 1")
        require(
            isinstance(episode_length, int) and 1 <= episode_length <= trial_length,
            "env.episode_length",
            episode_length,
            f"at least 1 and at most env.trial_length={trial_length}",
        )
        super().__init__(device=device, batch_size=torch.Size([n_envs]))
        self.episode_length, self.trial_length = episode_length, trial_length
        self._n_tasks = n_tasks
        flag = Binary(n=1, shape=(n_envs, 1), dtype=torch.bool, device=self.device)
        self.observation_spec = Composite(
            observation=Composite(
                observation=Unbounded((n_envs, observation_size), device=self.device), shape=(n_envs,)
            ),
            episode_end=flag.clone(),
            episode_return=Unbounded((n_envs, 1), device=self.device),
            episode_length=Unbounded((n_envs, 1), dtype=torch.int64, device=self.device),
            success=flag.clone(),
            shape=(n_envs,),
        )
        self.action_spec = Categorical(n_actions, shape=(n_envs,), device=self.device)
        self.reward_spec = Unbounded((n_envs, 1), device=self.device)
        self.full_done_spec = Composite(done=flag.clone(), terminated=flag.clone(), shape=(n_envs,))

        self._trial_index = torch.zeros(n_envs, dtype=torch.int64, device=self.device)
        self._trial_step = torch.zeros_like(self._trial_index)
        self._episode_step = torch.zeros_like(self._trial_index)
        self._episode_return = torch.zeros(n_envs, device=self.device)
        self._last_images: dict[int, NDArray[np.uint8]] | None = None
        self.set_seed(seed)

    @abstractmethod
    def _begin_tasks(self, which: Tensor, tasks: Tensor) -> None:
        """Assign the tasks with indices ``tasks [N]`` to the environments where ``which [N]`` is true."""

    @abstractmethod
    def _begin_episodes(self, which: Tensor) -> None:
        """Begin an episode of their task in the environments where ``which [N]`` is true."""

    @abstractmethod
    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Apply ``action [N]``; return rewards ``[N]`` and whether each episode is a success, bool ``[N]``."""

    @abstractmethod
    def _observe(self, episode_time: Tensor) -> Tensor:
        """Return observations ``[N, observation_size]``; ``episode_time [N]`` is the episode's elapsed fraction."""

    @abstractmethod
    def image(self, index: int = 0) -> NDArray[np.uint8]:
        """Return an image of an environment, uint8 ``[H, W, 3]``."""

    def watch(self) -> None:
        """Keep an image of the end of every episode from now on."""
        self._last_images = {}

    def last_image(self, index: int = 0) -> NDArray[np.uint8]:
        """Return an image of the end of an environment's latest episode, uint8 ``[H, W, 3]``, if watched."""
        assert self._last_images is not None
        return self._last_images[index]

    def _set_seed(self, seed: int | None) -> None:
        self._streams = stream_keys(seed or 0, self.batch_size[0], self.device)
        self._trial_index.zero_()

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        flags = None if tensordict is None else tensordict.get("_reset", None)
        if flags is None:
            which = torch.ones(self.batch_size, dtype=torch.bool, device=self.device)
        else:
            which = flags.view(self.batch_size)
        self._begin_tasks(which, draw_below(self._streams, self._trial_index, self._n_tasks))
        self._trial_index += which
        self._trial_step.masked_fill_(which, 0)
        self._start_episodes(which)
        nothing = torch.zeros(*self.batch_size, 1, dtype=torch.bool, device=self.device)
        return TensorDict(
            {
                "observation": self._observations(),
                "episode_end": nothing,
                "episode_return": self._episode_return.unsqueeze(-1).clone(),
                "episode_length": self._episode_step.unsqueeze(-1).clone(),
                "success": nothing.clone(),
                "done": nothing.clone(),
                "terminated": nothing.clone(),
            },
            self.batch_size,
            device=self.device,
        )

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        reward, success = self._advance(tensordict.get("action"))
        self._trial_step += 1
        self._episode_step += 1
        self._episode_return += reward
        episode_end = self._episode_step >= self.episode_length
        if self.success_ends_episode:
            episode_end = episode_end | success
        trial_end = (self._trial_step >= self.trial_length).unsqueeze(-1)
        episode_return, episode_length = self._episode_return.clone(), self._episode_step.clone()
        if self._last_images is not None:
            self._last_images |= {k: self.image(k) for k in episode_end.nonzero().flatten().tolist()}
        self._start_episodes(episode_end)
        return TensorDict(
            {
                "observation": self._observations(),
                "reward": reward.unsqueeze(-1),
                "episode_end": episode_end.unsqueeze(-1),
                "episode_return": episode_return.unsqueeze(-1),
                "episode_length": episode_length.unsqueeze(-1),
                "success": success.unsqueeze(-1),
                "done": trial_end,
                "terminated": trial_end.clone(),
            },
            self.batch_size,
            device=self.device,
        )

    def _observations(self) -> TensorDict:
        observation = self._observe(self._episode_step / self.episode_length)
        return TensorDict({"observation": observation}, self.batch_size, device=self.device)

    def _start_episodes(self, which: Tensor) -> None:
        self._begin_episodes(which)
        self._episode_step.masked_fill_(which, 0)
        self._episode_return.masked_fill_(which, 0.0)


def seed_of_split(entropy: Sequence[int], split: str) -> int:
    """Return a seed below 2 ** 31 made from ``entropy``: even for ``train``, odd for ``held_out``, any for ``all``."""
    draw = int(np.random.SeedSequence(entropy).generate_state(1)[0]) >> 1
    return draw if split == "all" else draw & ~1 | (split == "held_out")


def select_tasks(n_tasks: int, split: str, device: torch.device) -> Tensor:
    """Return the indices of the tasks in ``split``: about 80 % are for training, the others held out.

    A hash of its index assigns a task to its split, so no seed can change that.

    Raises:
        UserError: if ``split`` is not ``train``, ``held_out`` or ``all``.
    """
    require(split in SPLITS, "env.split", split, f"one of {', '.join(SPLITS)}")
    tasks = torch.arange(n_tasks, device=device)
    held_out = draw_below(tasks, torch.zeros_like(tasks), 5) == 0
    return {"train": tasks[~held_out], "held_out": tasks[held_out], "all": tasks}[split]
