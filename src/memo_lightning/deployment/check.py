"""Comparison of an exported policy with the agent it was made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import nn

from memo_lightning.deployment.formats import Arrays, Program
from memo_lightning.deployment.policy_step import NEXT_STATE, STATE, PolicyStep, input_name
from memo_lightning.policies.action import ACTION_MASK
from memo_lightning.policies.agent import Agent

N_RESTARTING = 32  # steps at the end, the only ones at which the last of the trials may begin anew
_TIMED_STEPS = 50


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        n_steps: number of steps that were compared.
        difference: largest difference between actions, parameters of their distributions and values, relative to one
            plus their magnitude.
        step_ms: median CPU time of a step of the program, in milliseconds.
        agent_step_ms: median CPU time of a step of the agent, in milliseconds.
    """

    n_steps: int
    difference: float
    step_ms: float
    agent_step_ms: float


def compare(program: Program, step: PolicyStep, agent: Agent, n_steps: int, seed: int = 0) -> Comparison:
    """Run an exported policy and its agent on the same random observations, in trials that begin at random steps.

    Args:
        program: the exported policy.
        step: the module that it was traced from.
        agent: the agent, with the same memory.
        n_steps: number of steps.
        seed: seed of the observations.
    """
    n, interface = step.batch_size, agent.spec.interface
    observed = batch_space(interface.observation_space, n)
    observed.seed(seed)
    numbers = np.random.default_rng(seed)
    inputs = {named.name: named.value.cpu().numpy() for named in step.inputs()}
    state, worst = agent.initial_state(n), 0.0
    with _one_thread(), _heads(agent) as seen:
        for t in range(n_steps):
            observation = observed.sample()
            inputs |= {
                input_name(key): np.asarray(key.part_of(observation)).astype(inputs[input_name(key)].dtype)
                for key in interface.keys
            }
            inputs["reward"] = numbers.normal(size=n).astype(np.float32)
            inputs["episode_end"] = numbers.random(n) < 0.1
            may_restart = (np.arange(n) < n - 1) | (t >= n_steps - N_RESTARTING)
            restarts = (numbers.random(n) < 0.02) & may_restart
            inputs["is_first"] = restarts | (t == 0)
            mask = None
            if interface.action.masked:
                mask = numbers.random(inputs[ACTION_MASK].shape) < 0.5
                mask[:, np.cumsum([0, *interface.action.n_values[:-1]])] = True  # at least one of every component
                inputs[ACTION_MASK] = mask
            outputs = program(inputs)
            act = partial(
                agent.act,
                observation,
                state,
                inputs["reward"],
                inputs["episode_end"],
                deterministic=True,
                is_first=inputs["is_first"],
                action_mask=mask,
            )
            _, state = act()
            expected = {**seen, "action": interface.action.to_envs(outputs[f"{NEXT_STATE}previous_action"])}
            worst = max(worst, *(_difference(outputs[name], value) for name, value in expected.items()))
            # Both continue with the agent's action, as rounding may decide between two that are equally likely.
            inputs |= {name: outputs[f"{NEXT_STATE}{name.removeprefix(STATE)}"] for name in inputs if STATE in name}
            inputs[f"{STATE}previous_action"] = state.previous_action.cpu().numpy()
        return Comparison(n_steps, worst, _median_ms(lambda: program(inputs)), _median_ms(act))


def _median_ms(step: Callable[[], object]) -> float:
    """Return the median CPU time of a step in milliseconds, over several in succession."""
    times = []
    for _ in range(_TIMED_STEPS):
        begun = time.thread_time()
        step()
        times.append(1e3 * (time.thread_time() - begun))
    return statistics.median(times)


@contextmanager
def _heads(agent: Agent) -> Iterator[Arrays]:
    """Yield a dictionary that holds, after every step of an agent, the parameters of its distribution and the value."""
    policy = agent.policy
    head: Any = policy.actor.module[0]
    seen: Arrays = {}

    def keep(module: nn.Module, inputs: tuple[TensorDict], read: TensorDict) -> None:
        values = {str(name): read.get(name) for name in head.out_keys}
        if policy.heads.has_critic:
            values["value"] = policy.heads.critic(read.select("hidden")).get("state_value").flatten()
        seen.update({name: value.detach().cpu().numpy() for name, value in values.items()})

    handle = head.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Restrict torch to one thread within the context, as the program uses one."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n)


def _difference(ours: NDArray, theirs: NDArray) -> float:
    """Return the largest relative difference, except in the logits of actions that are not allowed."""
    compared = np.isfinite(ours)
    return float((np.abs(ours - theirs) / (1 + np.abs(theirs)))[compared].max())
