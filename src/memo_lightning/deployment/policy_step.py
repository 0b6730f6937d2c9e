"""One step of a policy as a function of tensors that other programs can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from tensordict import TensorDict
from torch import Tensor, nn

from memo_lightning.policies.action import ACTION_MASK, Action
from memo_lightning.policies.agent import Agent
from memo_lightning.policies.encoders import OBSERVATION
from memo_lightning.policies.observation_keys import ObservationKey
from memo_lightning.policies.previous_step import PREVIOUS_STEP, encode_previous_step
from memo_lightning.policies.spaces import bounds

STATE, NEXT_STATE = "state.", "next_state."  # prefixes for the names of the state before and after the step
_PREVIOUS_ACTION = f"{STATE}previous_action"
_HEAD_MEANINGS = {
    "logits": "unnormalised log-probabilities of the actions",
    "loc": "mean of the normal distribution that is squashed into the bounds",
    "scale": "standard deviation of the normal distribution that is squashed into the bounds",
}


@dataclass(frozen=True)
class Named:
    """An input or output tensor, with its name and meaning."""

    name: str
    value: Tensor
    meaning: str

    def as_plain(self) -> dict[str, Any]:
        """Return name, shape, dtype and meaning."""
        dtype = str(self.value.dtype).removeprefix("torch.")
        return {"name": self.name, "shape": list(self.value.shape), "dtype": dtype, "meaning": self.meaning}


class PolicyStep(nn.Module):
    """The step of an :class:`~memo_lightning.policies.agent.Agent`, with tensors only.

    Observations go in as the environment returns them. Their conversion, the RL^2 inputs, normalisation and masks are
    part of the step, and so are the memory and its segments. Nothing is checked.

    Args:
        agent: the policy, with its observations and actions.
        batch_size: number of environments B that it acts in at once.

    Attributes:
        batch_size: as given.

    Raises:
        ValueError: if the memory grows without bound.
    """

    def __init__(self, agent: Agent, batch_size: int) -> None:
        super().__init__()
        self.policy, self._interface, self.batch_size = agent.policy, agent.spec.interface, batch_size
        self._memory = agent.policy.sequence_model.init_fixed_state(batch_size)

    @torch.no_grad()
    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Act: map the tensors of :meth:`inputs` to those of :meth:`outputs`."""
        policy, action = self.policy, self._interface.action
        observations = {key.name: _stored(key, inputs[input_name(key)]) for key in self._interface.keys}
        started = inputs["is_first"].unsqueeze(-1)  # (B, 1)
        ended = inputs["episode_end"].unsqueeze(-1)
        taken = inputs[_PREVIOUS_ACTION]
        taken = taken.masked_fill(started.view(-1, *[1] * len(action.shape)), 0)
        with_reward = self._interface.observes_reward
        previous = encode_previous_step(
            action, taken, inputs["reward"].unsqueeze(-1), ended, with_reward=with_reward
        ).masked_fill(started, 0.0)
        read = TensorDict(
            {
                OBSERVATION: TensorDict(observations, [self.batch_size]),
                PREVIOUS_STEP: previous,
                "is_init": started,
                "episode_end": ended & ~started,
            },
            [self.batch_size],
        )
        memory = {name: inputs[f"{STATE}{name}"] for name in self._memory}
        hidden, memory = policy.sequence_model.fixed_step(policy.encode(read), memory, policy.memory_starts(read))
        hidden = hidden.float()

        outputs = self._distribution(hidden, inputs)
        stored = _most_likely(action, outputs)
        outputs = {"action": _for_environment(action, stored), **outputs}
        if policy.heads.has_critic:
            heads = TensorDict({"hidden": hidden}, [self.batch_size])
            outputs["value"] = policy.heads.critic(heads).get("state_value").flatten()
        state = {"previous_action": stored, **memory}
        return {**outputs, **{f"{NEXT_STATE}{name}": value for name, value in state.items()}}

    def _distribution(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters of the action distribution; actions that are not allowed have logits of -inf."""
        heads = TensorDict({"hidden": hidden}, [self.batch_size])
        head = self.policy.actor.module[0]
        read = head(heads)
        parameters = {str(name): read.get(name) for name in head.out_keys}
        if self._interface.action.masked:
            parameters["logits"] = parameters["logits"].masked_fill(~inputs[ACTION_MASK], -torch.inf)
        return parameters

    def inputs(self) -> list[Named]:
        """Return the inputs, the state last, with example values for a first step."""
        interface, n = self._interface, self.batch_size
        found = [Named(input_name(key), _example(key.space, n), _meaning(key)) for key in interface.keys]
        no, yes = torch.zeros(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)
        found += [
            Named("reward", torch.zeros(n), "of the step that led to the observation"),
            Named("episode_end", no, "whether that step ended an episode; the trial and its memory continue"),
            Named("is_first", yes, "whether a trial begins; state, reward and episode_end then have no effect"),
        ]
        if interface.action.masked:
            allowed = torch.ones(n, sum(interface.action.n_values), dtype=torch.bool)
            found.append(Named(ACTION_MASK, allowed, "which actions are allowed"))
        return found + self.state()

    def state(self) -> list[Named]:
        """Return the state among the inputs, with its initial values."""
        action = self._interface.action
        previous = torch.zeros(self.batch_size, *action.shape, dtype=action.spec((self.batch_size,)).dtype)
        meanings = self.policy.sequence_model.fixed_state_meanings
        found = [Named(_PREVIOUS_ACTION, previous, "the action taken in the previous step, encoded as in `sampling`")]
        for name, value in self._memory.items():
            kind = type(self.policy.sequence_model).__name__
            found.append(Named(f"{STATE}{name}", value, meanings.get(name.partition(".")[0], f"memory of {kind}")))
        return found

    def outputs(self) -> list[Named]:
        """Return the outputs of a step with :meth:`inputs`, the state last."""
        inputs = self.inputs()
        meanings = {
            "action": "the most likely action, as the environment takes it",
            "value": "the expected return from here on",
            **_HEAD_MEANINGS,
            **{f"{NEXT_STATE}{i.name.removeprefix(STATE)}": i.meaning for i in self.state()},
            f"{NEXT_STATE}previous_action": "the most likely action; replace it if you take another",
        }
        values = self({named.name: named.value for named in inputs})
        return [Named(name, value, meanings[name]) for name, value in values.items()]

    def sampling(self) -> dict[str, Any]:
        """Return, as plain values, how to sample an action and what then goes into the state."""
        action = self._interface.action
        if not action.n_values:
            low, high = bounds(action.space)  # type: ignore[arg-type]
            return {
                "distribution": "tanh_normal",
                "low": low.tolist(),
                "high": high.tolist(),
                "how": "z = loc + scale * standard normal noise; stored = low + (high - low) * (tanh(z) + 1) / 2. "
                "state.previous_action of the next step is `stored`; the environment takes it in the shape and dtype "
                "of `action`, rounded where that is an integer",
            }
        starts = getattr(action.space, "start", 0)
        return {
            "distribution": "categorical",
            "n_values": action.n_values,
            "start": np.broadcast_to(np.asarray(starts).reshape(-1), (len(action.n_values),)).tolist(),
            "how": "logits are concatenated over the components, n_values of each; draw index k of every component "
            "with probability softmax(its logits)[k]. state.previous_action of the next step is k, or the k of all "
            "components; the environment takes k + start, in the shape of `action`",
        }


def input_name(key: ObservationKey) -> str:
    """Return the input name of an observation key: ``observation``, or ``observation.NAME`` if there are several."""
    return OBSERVATION if not key.path else f"{OBSERVATION}.{key.name}"


def _example(space: Space, batch_size: int) -> Tensor:
    """Return an example of a part of an observation ``[B, ...]``: zeros, or the first of its discrete values."""
    start = np.asarray(getattr(space, "start", 0))
    value = torch.zeros(batch_size, *(space.shape or ()), dtype=_dtype(space))
    return value + torch.as_tensor(start, dtype=value.dtype)


def _dtype(space: Space) -> torch.dtype:
    """Return the dtype of a space's values in the program: int64 if discrete, float32 for floating-point numbers."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return torch.int64
    given = np.dtype(space.dtype)
    if given.kind == "f" or given.name not in ("bool", "uint8", "int8", "int16", "int32", "int64"):
        return torch.float32
    return getattr(torch, given.name)


def _meaning(key: ObservationKey) -> str:
    where = "".join(f"[{part!r}]" for part in key.path)
    return f"{f'{where} of the observation' if where else 'the observation'}: {key.description}"


def _stored(key: ObservationKey, value: Tensor) -> Tensor:
    """Return a part of an observation ``[B, ...]`` as it is stored, like :meth:`ObservationKey.read`."""
    if key.is_image:
        if key.layout == "channels_first":
            value = value.movedim(-3, -1)
        if len(key.space.shape or ()) == 4:
            value = value.movedim(1, -2)
        return value.reshape(len(value), *key.shape)
    if key.is_discrete:
        value = value - torch.as_tensor(key.space.start)  # type: ignore[attr-defined]
        return value.reshape(len(value), *key.shape)
    return value.reshape(len(value), *key.shape).float()


def _most_likely(action: Action, parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the most likely actions ``[B, ...]``, as stored."""
    if not action.n_values:
        low, high = bounds(action.space)  # type: ignore[arg-type]
        return (low + high) / 2 + (high - low) / 2 * parameters["loc"].tanh()
    chosen = torch.stack([part.argmax(-1) for part in parameters["logits"].split(action.n_values, -1)], -1)
    return chosen if action.shape else chosen.squeeze(-1)


def _for_environment(action: Action, stored: Tensor) -> Tensor:
    """Convert stored actions ``[B, ...]`` to the environment's format, like :meth:`Action.to_envs`."""
    space = action.space
    dtype = _dtype(space)
    if not action.n_values and not dtype.is_floating_point:
        stored = stored.round()
    value = stored.reshape(len(stored), *(space.shape or ())).to(dtype)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        value = value + torch.as_tensor(space.start)
    return value
