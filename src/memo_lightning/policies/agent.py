"""A trained policy to act with: raw observations in, actions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from numpy.typing import ArrayLike, NDArray
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from memo_lightning.errors import UserError, require
from memo_lightning.models.base import check_finite
from memo_lightning.models.device import prepare_device
from memo_lightning.policies.action import ACTION_MASK
from memo_lightning.policies.encoders import OBSERVATION
from memo_lightning.policies.exploration import draw, seeded_generator
from memo_lightning.policies.memory_policy import MemoryPolicy
from memo_lightning.policies.previous_step import PREVIOUS_STEP, encode_previous_step
from memo_lightning.policies.spec import PolicySpec


@dataclass
class AgentState:
    """The state of an agent in each environment.

    Attributes:
        memory: the sequence model's memory, batch ``[B]``.
        previous_action: the last action, as stored, ``[B, ...]``.
        is_first: bool ``[B]``, true where the next step is the first of a trial.
        is_batch: whether observations and actions have a batch dimension.
    """

    memory: TensorDict
    previous_action: Tensor
    is_first: Tensor
    is_batch: bool

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """``(B,)``, or ``()`` for a single environment without a batch dimension."""
        return (len(self.is_first),) if self.is_batch else ()


@dataclass(frozen=True)
class StepInputs:
    """The inputs of one step in N environments, as they are stored.

    Attributes:
        observations: the parts of the observation ``[N, ...]``, by name.
        reward: float32 ``[N]``.
        episode_end: bool ``[N]``.
        action_mask: bool ``[N, n]``; None if the policy uses no mask.
    """

    observations: Mapping[str, NDArray]
    reward: NDArray[np.float32]
    episode_end: NDArray[np.bool_]
    action_mask: NDArray[np.bool_] | None = None


class Agent:
    """A trained policy that acts in environments of the kind it was trained in.

    It needs nothing from training: no environment, no configuration, no Trainer. Meta-RL policies read the previous
    action and reward: the agent keeps the action itself, the caller passes the reward. Actions are sampled with the
    agent's own random generator.

    Args:
        spec: specification of the policy.
        policy: the policy.
        training: how it was trained: ``config``, ``frames``, ``mlflow_run_id``.
        seed: seed for sampling actions; None for a different one every time.

    Raises:
        UserError: if the seed is out of range.

    Attributes:
        observation_space: Gymnasium space of one environment's observation.
        action_space: Gymnasium space of one environment's action.
    """

    def __init__(
        self, spec: PolicySpec, policy: MemoryPolicy, training: Mapping[str, Any], seed: int | None = None
    ) -> None:
        self.spec, self.policy, self.training = spec, policy.eval(), training
        self.observation_space: Space = spec.interface.observation_space
        self.action_space: Space = spec.interface.action.space
        fits = seed is None or (isinstance(seed, Integral) and 0 <= seed < 2**32)
        require(fits, "seed", seed, f"from 0 to {2**32 - 1}, or None")
        prepare_device(policy.device)
        self._generator = seeded_generator(policy.device, None if seed is None else int(seed))

    @property
    def device(self) -> torch.device:
        """The device it computes on."""
        return self.policy.device

    def initial_state(self, batch_size: int | None = None) -> AgentState:
        """Return the state at the start of a trial, with an empty memory.

        Args:
            batch_size: number of environments B; None for a single one, without a batch dimension.

        Raises:
            UserError: if ``batch_size`` is not positive.
        """
        n = 1 if batch_size is None else batch_size
        require(isinstance(n, Integral) and n >= 1, "batch_size", batch_size, "at least 1, or None")
        action = self.spec.interface.action
        previous = torch.zeros((n, *action.shape), dtype=action.spec((n,)).dtype, device=self.device)
        first = torch.ones(n, dtype=torch.bool, device=self.device)
        return AgentState(self.policy.sequence_model.init_state(n), previous, first, batch_size is not None)

    @torch.no_grad()
    def act(
        self,
        observation: Any,
        state: AgentState,
        reward: ArrayLike = 0.0,
        episode_end: ArrayLike = False,
        deterministic: bool = False,
        is_first: ArrayLike | None = None,
        action_mask: ArrayLike | None = None,
    ) -> tuple[Any, AgentState]:
        """Choose an action for each environment.

        Args:
            observation: the observation as the environment returns it, an array or a dictionary of arrays; ``[B, ...]``
                for a batch.
            state: the state before the step. It is updated in place; use the returned one from here on.
            reward: reward of the step that led to ``observation``; a number or ``[B]``.
            episode_end: whether that step ended an episode; a flag or ``[B]``. The trial continues, and so does a
                memory whose scope is the trial.
            deterministic: take the most likely action instead of sampling one.
            is_first: whether a new trial begins, which clears the memory before the step; a flag or ``[B]``. Not needed
                for the first step after :meth:`initial_state`.
            action_mask: bool ``[.., n]``, true where an action is allowed, for a policy that was trained with a mask;
                by default read from the observation.

        Returns:
            The action in the environment's format, ``[B, ...]`` for a batch, and the state after the step.

        Raises:
            UserError: if an observation, a reward, a mask or the state does not fit, or an input is not finite.
        """
        self._check_batch(observation, state)
        shape = state.batch_shape
        if is_first is not None:
            state.is_first |= self._tensor(_flags("is_first", is_first, shape))
        heads = self.advance(self.read(observation, shape, reward, episode_end, action_mask), state)
        chosen = self.most_likely(heads) if deterministic else draw(self.policy.actor.get_dist(heads), self._generator)
        state.previous_action = chosen
        action = self.spec.interface.action
        stored = chosen.cpu().numpy()
        return action.to_envs(stored) if state.is_batch else action.to_env(stored[0]), state

    def state_nbytes(self, state: AgentState) -> int:
        """Return the current size of the memory in bytes."""
        return self.policy.sequence_model.state_nbytes(state.memory)

    def read(
        self,
        observation: Any,
        batch_shape: tuple[int, ...] = (),
        reward: ArrayLike = 0.0,
        episode_end: ArrayLike = False,
        action_mask: ArrayLike | None = None,
    ) -> StepInputs:
        """Check the inputs of a step and convert them to the form in which they are stored.

        Args:
            observation: as in :meth:`act`.
            batch_shape: ``(B,)``, or ``()`` for a single environment.
            reward: as in :meth:`act`.
            episode_end: as in :meth:`act`.
            action_mask: as in :meth:`act`.

        Raises:
            UserError: if an observation, a reward or a mask does not fit.
        """
        interface, n = self.spec.interface, batch_shape[0] if batch_shape else 1
        observations = {key.name: key.read(observation, batch_shape).reshape(n, *key.shape) for key in interface.keys}
        rewards, ended = _numbers("reward", reward, batch_shape), _flags("episode_end", episode_end, batch_shape)
        mask = None
        if interface.action.masked:
            if action_mask is None and isinstance(observation, Mapping):
                action_mask = observation.get(ACTION_MASK)
            if action_mask is None:
                raise UserError("action_mask: missing; the policy was trained with one, so pass one with every step")
            mask = interface.action.read_mask(action_mask, batch_shape).reshape(n, -1)
        elif action_mask is not None:
            raise UserError("action_mask: must be left out, as the policy was trained without one and would ignore it")
        return StepInputs(observations, rewards, ended, mask)

    @torch.no_grad()
    def advance(self, step: StepInputs, state: AgentState) -> TensorDict:
        """Update the memory with one step in N environments.

        Args:
            step: as returned by :meth:`read`.
            state: the state before the step. It is updated in place, except for the action, which is yet to be chosen.

        Returns:
            The inputs of the heads, batch ``[N]``.

        Raises:
            UserError: if an input is not finite; the memory is then unchanged.
        """
        inputs, policy = self.policy_inputs(step, state), self.policy
        try:
            starts = policy.memory_starts(inputs)
            encoded = policy.encode(inputs)
            if self.device.type != "cpu":  # there, a step does not check it
                check_finite(encoded)
            hidden, state.memory = policy.sequence_model.step(encoded, state.memory, starts)
        except ValueError as error:
            raise UserError(policy.non_finite_input(inputs) or str(error)) from None
        state.is_first = torch.zeros_like(state.is_first)
        return policy.head_inputs(hidden, inputs)

    @torch.no_grad()
    def most_likely(self, heads: TensorDict) -> Tensor:
        """Return the most likely actions ``[N, ...]``, as stored, given the inputs of the heads."""
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            return self.policy.actor(heads).get("action")

    def policy_inputs(self, step: StepInputs, state: AgentState) -> TensorDict:
        """Return the policy inputs ``[N]`` for a step in N environments."""
        interface, n = self.spec.interface, len(state.is_first)
        ended, started = self._tensor(step.episode_end).unsqueeze(-1), state.is_first.unsqueeze(-1)
        previous = encode_previous_step(
            interface.action,
            state.previous_action,
            self._tensor(step.reward).unsqueeze(-1),
            ended,
            with_reward=interface.observes_reward,
        )
        inputs = {
            OBSERVATION: TensorDict({name: self._tensor(part) for name, part in step.observations.items()}, [n]),
            PREVIOUS_STEP: previous.masked_fill(started, 0.0),
            "is_init": started,
            "episode_end": ended & ~started,
        }
        if step.action_mask is not None:
            inputs[ACTION_MASK] = self._tensor(step.action_mask)
        return TensorDict(inputs, [n])

    def _check_batch(self, observation: Any, state: AgentState) -> None:
        """Raise :class:`UserError` if the observation and the state are for different numbers of environments."""
        key = self.spec.interface.keys[0]
        shape, own = np.shape(key.part_of(observation)), tuple(key.space.shape or ())
        batch = shape[: len(shape) - len(own)]
        if shape == (*batch, *own) and batch != state.batch_shape:
            held = f"has batch size {state.batch_shape[0]}" if state.is_batch else "has no batch dimension"
            needed = f"initial_state(batch_size={batch[0]})" if batch else "initial_state()"
            raise UserError(f"state {held}: must come from {needed} to match observations of shape {shape}")

    def _tensor(self, array: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _numbers(name: str, value: ArrayLike, batch_shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a number for each environment, float32 ``[N]``."""
    numbers = np.asarray(value, np.float32)
    if numbers.shape not in ((), batch_shape):
        raise UserError(f"{name} has shape {numbers.shape}: must be a number, or of shape {batch_shape}")
    return np.full(batch_shape or (1,), numbers)


def _flags(name: str, value: ArrayLike, batch_shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a flag for each environment, bool ``[N]``."""
    return _numbers(name, value, batch_shape) != 0
