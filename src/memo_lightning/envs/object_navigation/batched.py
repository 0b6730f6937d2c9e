"""Object navigation as a natively batched TorchRL environment: compiled kernels step all trials together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Composite, Unbounded
from torchrl.envs import EnvBase

from memo_lightning.envs.object_navigation.observations import CompactForm
from memo_lightning.envs.object_navigation.pathfinder import HousePathfinder
from memo_lightning.envs.object_navigation.settings import (
    PositionFrame,
    SensorName,
    check_observations,
    image_camera,
    open_source,
)
from memo_lightning.envs.object_navigation.trial_image import draw_trial
from memo_lightning.envs.reports import MEASURES, SUCCESS, SUCCESS_REPORTED
from memo_lightning.envs.trial_env import seed_of_split
from memo_lightning.errors import require
from memo_lightning.houses import Camera, Placement, Pose, View
from memo_lightning.houses.batch import BatchedTrials
from memo_lightning.houses.batch.stepping import ACTION_NAMES
from memo_lightning.houses.columns import MAX_RANGE, columns_camera
from memo_lightning.policies.action import Action
from memo_lightning.policies.encoders import OBSERVATION
from memo_lightning.policies.observation_keys import observation_keys
from memo_lightning.policies.spec import Interface

_N_ACTIONS_LEVEL = 4  # without the two that tilt the camera


class BatchedExtObjNav(EnvBase):
    """N trials of object navigation in generated houses, stepped by threads of this process.

    With the same settings and seed, it gives the same numbers, bit for bit, as
    :class:`~memo_lightning.envs.habitat.ext_objnav.ExtObjNav`, which steps habitat-lab's environments one after
    another.

    Args:
        n_envs: number of environments N.
        trial_length: steps of a trial.
        episode_length: steps after which an episode ends without success.
        sensors: what to observe: ``rgb``, ``depth``, ``columns``.
        image_size: side of the images, pixels.
        n_columns: number of columns in the column observation.
        can_tilt: whether the agent has the two actions that tilt its camera.
        position_frame: frame of ``position``: ``trial`` or ``house``.
        split: ``train``, ``held_out_placements`` or ``held_out``.
        dataset: further arguments of :class:`~memo_lightning.houses.sources.GeneratedSource`.
        data_path: episode file to use instead of drawing episodes, or a folder with ``<split>.jsonl.gz``.
        object_range: metres within which the columns report the types of objects.
        seed: seed of all random streams.
        device: device of the tensors.

    Attributes:
        interface: the interface to a policy.
        action_names: names of the actions, in order.

    Raises:
        UserError: if a setting is out of range, or the file cannot be used.
    """

    def __init__(
        self,
        *,
        n_envs: int,
        trial_length: int,
        episode_length: int,
        sensors: Sequence[SensorName],
        image_size: int,
        n_columns: int,
        can_tilt: bool,
        position_frame: PositionFrame,
        split: str,
        dataset: dict[str, Any],
        data_path: str = "",
        object_range: float = MAX_RANGE,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        require(n_envs >= 1, "n_envs", n_envs, "at least 1")
        require(trial_length >= 1, "env.trial_length", trial_length, "at least 1")
        require(episode_length >= 1, "env.episode_length", episode_length, "at least 1")
        check_observations(sensors, image_size, n_columns, position_frame)
        source = open_source(split, data_path, dataset)
        super().__init__(device=device, batch_size=torch.Size([n_envs]))
        self._trial_length, self._n_placements = trial_length, source.n_placements
        self._trials = BatchedTrials(
            source,
            n_envs,
            episode_length,
            list(sensors),
            image_camera(image_size),
            columns_camera(n_columns if "columns" in sensors else 1),
            position_frame == "house",
            torch.get_num_threads(),
        )
        self.action_names = ACTION_NAMES if can_tilt else ACTION_NAMES[:_N_ACTIONS_LEVEL]
        n_actions = len(self.action_names)
        self._form = CompactForm(episode_length, object_range)
        shapes = {name: value.shape[1:] for name, value in self._trials.observations.items()}
        space = self._form.space(shapes, n_actions)
        self._keys, action = observation_keys(space), Action(spaces.Discrete(n_actions))
        self.interface = Interface(space, self._keys, action)
        self._set_specs(action)

        self._previous_action = np.zeros(n_envs, np.int64)
        self._trial_step = np.zeros(n_envs, np.int64)
        self._returns = np.zeros(n_envs)
        self._last_images: dict[int, NDArray[np.uint8]] | None = None
        self.set_seed(seed)

    def image(self, index: int = 0) -> NDArray[np.uint8]:
        """Return an image of an environment, uint8 ``[H, W, 3]``; see :func:`draw_trial`."""
        trials, steps = self._trials, int(self._trials.agents.elapsed[index])
        goal = trials.goal(index)
        text = f"find: {goal}     episode {trials.episode(index) + 1}, step {steps}"
        scene = _Scene(
            trials.pose(index),
            trials.placement(index),
            trials.view(index),
            HousePathfinder(trials.navigator(index), np.random.default_rng(0)),
        )
        return draw_trial(scene, goal, [(x, z) for x, z in trials.path(index).tolist()], text)

    def watch(self) -> None:
        """Keep an image of the end of every episode from now on."""
        self._last_images = {}

    def last_image(self, index: int = 0) -> NDArray[np.uint8] | None:
        """Return an image of the end of an environment's latest episode; None if none was watched."""
        return (self._last_images or {}).get(index)

    def _set_specs(self, action: Action) -> None:
        n, device = self.batch_size[0], self.device
        flag = Binary(n=1, shape=(n, 1), dtype=torch.bool, device=device)
        number = Unbounded((n, 1), device=device)
        self.observation_spec = Composite(
            {
                OBSERVATION: Composite({key.name: key.spec((n,), device) for key in self._keys}, shape=(n,)),
                "episode_end": flag.clone(),
                "episode_return": number.clone(),
                "episode_length": Unbounded((n, 1), dtype=torch.int64, device=device),
                SUCCESS: flag.clone(),
                SUCCESS_REPORTED: flag.clone(),
                MEASURES: Composite(spl=number.clone(), shape=(n,)),
            },
            shape=(n,),
        )
        self.action_spec = action.spec((n,), device)
        self.reward_spec = number.clone()
        self.full_done_spec = Composite(done=flag.clone(), terminated=flag.clone(), shape=(n,))

    def _set_seed(self, seed: int | None) -> None:
        self._seed = seed or 0
        self._trial_index = np.full(self.batch_size[0], -1)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        flags = None if tensordict is None else tensordict.get("_reset", None)
        which = np.ones(self.batch_size[0], np.bool_)
        if flags is not None:
            which = flags.view(self.batch_size).cpu().numpy()
        rows = np.flatnonzero(which)
        self._trial_index[rows] += 1
        self._trials.begin_trials(rows, [self._draw_placement(row, self._trial_index[row]) for row in rows.tolist()])
        for values in (self._trial_step, self._previous_action, self._returns):
            values[rows] = 0
        self._trials.observe()
        agents, nothing = self._trials.agents, np.zeros(len(which), np.bool_)
        return self._pack(agents.elapsed, self._returns, agents.spl, nothing, nothing)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        actions = tensordict.get("action").cpu().numpy().astype(np.int64)
        trials, agents = self._trials, self._trials.agents
        trials.step(actions)
        self._trial_step += 1
        self._returns += agents.reward
        # Copies: episodes that begin in this step overwrite the reports of those that end.
        lengths, returns, end = agents.elapsed.copy(), self._returns.copy(), agents.over.copy()
        reward, spl, success = agents.reward.copy(), agents.spl.copy(), end & (agents.success > 0)
        done = self._trial_step >= self._trial_length
        if self._last_images is not None:
            self._last_images |= {row: self.image(row) for row in np.flatnonzero(end).tolist()}
        begun = np.flatnonzero(end & ~done)
        trials.begin_episodes(begun)
        self._returns[begun] = 0.0
        self._previous_action = np.where(end, 0, actions + 1)
        trials.observe()
        result = self._pack(lengths, returns, spl, end, success, done)
        return result.set("reward", self._tensor(reward, torch.float32).unsqueeze(-1))

    def _draw_placement(self, row: int, trial: int) -> int:
        """Draw the placement of a trial in the same way as habitat-lab's environments."""
        seed = seed_of_split((self._seed, row, int(trial), 0), "train")
        return int(np.random.default_rng(seed).integers(self._n_placements))

    def _pack(
        self,
        lengths: NDArray,
        returns: NDArray,
        spl: NDArray,
        end: NDArray,
        success: NDArray,
        done: NDArray | None = None,
    ) -> TensorDict:
        """Return a step: the current observations, and the reports on the episode that the step belongs to."""
        # After a step that ends an episode, the observed time is 0, even if no new episode has begun.
        elapsed = np.where(end, 0, self._trials.agents.elapsed)
        observation = self._form.rewrite(self._trials.observations, self._previous_action, elapsed)
        n = self.batch_size[0]
        observed = {
            key.name: self._tensor(observation[key.name].reshape(n, *key.shape).astype(key.dtype)) for key in self._keys
        }
        done = np.zeros(n, np.bool_) if done is None else done
        values = {
            "episode_end": (end, torch.bool),
            "episode_return": (returns, torch.float32),
            "episode_length": (lengths, torch.int64),
            SUCCESS: (success, torch.bool),
            SUCCESS_REPORTED: (end, torch.bool),
            "done": (done, torch.bool),
            "terminated": (done, torch.bool),
        }
        reports = {name: self._tensor(value, dtype).unsqueeze(-1) for name, (value, dtype) in values.items()}
        measures = {"spl": self._tensor(spl, torch.float32).unsqueeze(-1)}
        return TensorDict({OBSERVATION: observed, MEASURES: measures, **reports}, self.batch_size, device=self.device)

    def _tensor(self, value: NDArray, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return a copy of an array as a tensor."""
        return torch.tensor(value, dtype=dtype, device=self.device)


@dataclass(frozen=True)
class _Scene:
    """What :func:`draw_trial` needs of a simulator."""

    pose: Pose
    placement: Placement
    view: View
    pathfinder: HousePathfinder

    def look(self, camera: Camera) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return colours uint8 ``[H, W, 3]``, and depth float32 ``[H, W]`` in metres."""
        return self.view.rgb(camera), self.view.depth(camera)
