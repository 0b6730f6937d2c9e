"""Acting for many sessions in one call of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor

from memo_lightning.errors import UserError
from memo_lightning.models.projection import expect_any_batch_size
from memo_lightning.policies import Agent, AgentState
from memo_lightning.policies.agent import StepInputs
from memo_lightning.policies.exploration import draw, seeded_generator
from memo_lightning.policies.multi_categorical import MultiCategorical
from memo_lightning.serving.memories import Memories, Memory


@dataclass(eq=False)
class Player:
    """The part of an actor that belongs to one session.

    Attributes:
        generator: random generator for its actions; no other session uses it.
        deterministic: whether it takes the most likely action by default.
        memory: its memory of the trial.
    """

    generator: torch.Generator
    deterministic: bool = False
    memory: Memory = field(default_factory=Memory)


@dataclass(frozen=True)
class Step:
    """The checked inputs of a session's step.

    Attributes:
        inputs: inputs of the agent, for a batch of one.
        is_first: whether a trial begins, which clears the memory before the step.
        deterministic: whether to take the most likely action.
        details: whether to answer with the value and the probabilities too.
    """

    inputs: StepInputs
    is_first: bool
    deterministic: bool
    details: bool


@dataclass(frozen=True)
class Answer:
    """The answer to a session's step.

    Attributes:
        action: the action in the environment's format, as a number or nested lists.
        step: number of the step in the trial, from 1.
        value: estimated value of the state; None if it was not requested or the policy has no value head.
        probabilities: probabilities of all actions, a list per component if there are several; None if they were not
            requested or actions are continuous.
    """

    action: Any
    step: int
    value: float | None = None
    probabilities: list[Any] | None = None


class BatchedActor:
    """An actor for many sessions at a time; the answer to one does not depend on the others.

    Only one thread at a time may use it, except for :meth:`read`.

    Args:
        agent: the policy.
    """

    def __init__(self, agent: Agent) -> None:
        expect_any_batch_size(agent.policy)
        self.agent, self.memories = agent, Memories(agent)
        self._action = agent.spec.interface.action

    def player(self, seed: int | None, deterministic: bool) -> Player:
        """Return the player of a new session, with the random numbers of an :class:`Agent` of the same ``seed``."""
        return Player(seeded_generator(self.agent.device, seed), deterministic)

    def read(self, told: Mapping[str, Any], player: Player) -> Step:
        """Check and convert the inputs of a session's step.

        Args:
            told: ``observation``, and any of ``reward``, ``episode_end``, ``is_first``, ``action_mask``,
                ``deterministic`` and ``details``.
            player: player of the session.

        Raises:
            UserError: if something is missing or does not fit.
        """
        if "observation" not in told:
            raise UserError("observation: missing; must be the observation that the environment returned")
        observation = as_space_has_it(self.agent.observation_space, told["observation"])
        keys = self.agent.spec.interface.keys
        for key in keys:
            if key.is_discrete and np.asarray(key.part_of(observation)).dtype.kind == "f":
                raise UserError(f"observation {key.name!r} is not an integer; its space says {key.space}")
        reward = told.get("reward", 0.0)
        if isinstance(reward, bool) or not isinstance(reward, int | float):
            raise UserError(f"reward={reward!r}: must be a number")
        try:
            reward = float(reward)
        except OverflowError:  # the integer is too large
            reward = math.inf
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported below
            inputs = self.agent.read(
                observation, (), reward, _flag(told, "episode_end"), action_mask=_mask(told.get("action_mask"))
            )
            observations = {key.name: inputs.observations[key.name].astype(key.dtype, copy=False) for key in keys}
        inputs = StepInputs(observations, inputs.reward, inputs.episode_end, inputs.action_mask)
        if not np.isfinite(inputs.reward).all() or not all(np.isfinite(part).all() for part in observations.values()):
            alone = self.agent.initial_state(1)
            alone.is_first = torch.zeros_like(alone.is_first)
            said = self.agent.policy.non_finite_input(self.agent.policy_inputs(inputs, alone))
            if said is not None:
                raise UserError(said.replace(" of environment 0", ""))
        return Step(
            inputs, _flag(told, "is_first"), _flag(told, "deterministic", player.deterministic), _flag(told, "details")
        )

    def act(self, players: Sequence[Player], steps: Sequence[Step]) -> list[Answer | UserError]:
        """Answer one step of each of several players; an error goes only to the players that caused it."""
        by_class: dict[int, list[int]] = {}
        for index, (player, step) in enumerate(zip(players, steps, strict=True)):
            if step.is_first:
                self.memories.drop(player.memory)
            by_class.setdefault(self.memories.size_class(player.memory), []).append(index)
        answers: dict[int, Answer | UserError] = {}
        for members in by_class.values():
            together = self._act_together([players[i] for i in members], [steps[i] for i in members])
            answers |= dict(zip(members, together, strict=True))
        return [answers[index] for index in range(len(players))]

    def forget(self, player: Player) -> None:
        """Clear the memory of a session: its next step begins a trial."""
        self.memories.drop(player.memory)

    def _act_together(self, players: Sequence[Player], steps: Sequence[Step]) -> list[Answer | UserError]:
        order, state = self.memories.gather([player.memory for player in players])
        ordered, told = [players[index] for index in order], [steps[index] for index in order]
        try:
            heads = self.agent.advance(_stacked([step.inputs for step in told]), state)
        except UserError as error:  # no memory was changed; acting one by one shows whose step it was
            if len(players) == 1:
                return [error]
            return [self._act_together([player], [step])[0] for player, step in zip(players, steps, strict=True)]
        sound = heads.get("hidden").isfinite().flatten(1).all(1)
        if not sound.all():
            heads["hidden"] = heads.get("hidden").nan_to_num(0.0, 0.0, 0.0)
        chosen = self._choose(heads, ordered, told, state)
        state.previous_action = chosen
        self.memories.put(ordered[0].memory, state)
        answers = self._answers(heads, chosen, ordered, told)
        result: list[Answer | UserError] = [answers[order.index(0)]] * len(players)
        for row, index in enumerate(order):
            result[index] = answers[row]
            if not sound[row]:  # its memory is not finite either
                self.memories.drop(ordered[row].memory)
                result[index] = UserError(
                    "observation: values too large for the policy; its memory of the trial is lost, and the next step "
                    "begins a new trial"
                )
        return result

    def _choose(self, heads: TensorDict, players: Sequence[Player], steps: Sequence[Step], state: AgentState) -> Tensor:
        """Return actions ``[n, ...]``, as stored; only players that sample use up random numbers."""
        likely = [step.deterministic for step in steps]
        chosen = torch.zeros_like(state.previous_action)
        for rows in ([i for i, d in enumerate(likely) if d], [i for i, d in enumerate(likely) if not d]):
            if not rows:
                continue
            index = torch.tensor(rows, device=chosen.device)
            own = heads[index]
            if likely[rows[0]]:
                chosen[index] = self.agent.most_likely(own)
            else:
                with torch.no_grad():
                    distribution = self.agent.policy.actor.get_dist(own)
                    chosen[index] = draw(distribution, [players[row].generator for row in rows])
        return chosen

    def _answers(
        self, heads: TensorDict, chosen: Tensor, players: Sequence[Player], steps: Sequence[Step]
    ) -> list[Answer]:
        actions = self._action.to_envs(chosen.cpu().numpy()).tolist()
        values: list[float | None] = [None] * len(steps)
        probabilities: list[list[Any] | None] = [None] * len(steps)
        if any(step.details for step in steps):
            with torch.no_grad():
                values, probabilities = self._details(heads)
        answers = []
        for row, (player, step) in enumerate(zip(players, steps, strict=True)):
            player.memory.steps += 1
            details = (values[row], probabilities[row]) if step.details else (None, None)
            answers.append(Answer(actions[row], player.memory.steps, *details))
        return answers

    def _details(self, heads: TensorDict) -> tuple[list[float | None], list[list[Any] | None]]:
        policy, n = self.agent.policy, heads.batch_size[0]
        values: list[float | None] = [None] * n
        if policy.heads.has_critic:
            values = policy.heads.critic(heads.clone()).get("state_value").squeeze(-1).tolist()
        if not self._action.n_values:
            return values, [None] * n
        distribution = policy.actor.get_dist(heads)
        if isinstance(distribution, MultiCategorical):
            parts = [part.probs.tolist() for part in distribution.parts]
            return values, [list(of_row) for of_row in zip(*parts, strict=True)]
        return values, distribution.probs.tolist()


def as_space_has_it(space: Space, value: Any) -> Any:
    """Convert lists in an observation, as JSON has them, to arrays: uint8 where its space is, if the values fit.

    What does not fit the space is left as it is, for the agent to report.

    Raises:
        UserError: if lists have different lengths.
    """
    if isinstance(space, spaces.Dict) and isinstance(value, Mapping):
        parts = space.spaces
        return {key: as_space_has_it(parts[key], part) if key in parts else part for key, part in value.items()}
    if isinstance(space, spaces.Tuple) and isinstance(value, list | tuple):
        named = zip(space.spaces, value, strict=False)
        return (*(as_space_has_it(part, held) for part, held in named), *value[len(space.spaces) :])
    if not isinstance(value, list):
        return value
    try:
        array = np.asarray(value)
    except ValueError:
        raise UserError(f"observation: contains lists of different lengths; its space says {space}") from None
    if space.dtype == np.uint8 and array.dtype.kind in "iu" and array.size and 0 <= array.min() <= array.max() <= 255:
        return array.astype(np.uint8)
    return array


def _flag(told: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = told.get(name, default)
    if value is None:
        return default
    if value not in (True, False):  # 1 and 0 pass too, as some languages have no others
        raise UserError(f"{name}={value!r}: must be true or false")
    return bool(value)


def _mask(mask: Any) -> Any:
    if mask is None or isinstance(mask, np.ndarray):
        return mask
    try:
        return np.asarray(mask)
    except ValueError:
        raise UserError("action_mask: contains lists of different lengths; must have one value per action") from None


def _stacked(steps: Sequence[StepInputs]) -> StepInputs:
    """Join the steps ``[1]`` of several sessions into one of a batch."""

    def joined(parts: list[NDArray]) -> NDArray:
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    masks = [step.action_mask for step in steps if step.action_mask is not None]
    return StepInputs(
        {name: joined([step.observations[name] for step in steps]) for name in steps[0].observations},
        joined([step.reward for step in steps]),
        joined([step.episode_end for step in steps]),
        joined(masks) if masks else None,
    )
