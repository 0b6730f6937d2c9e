"""Everything that defines a policy, as plain values: what a checkpoint holds besides the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gymnasium import Space
from torchrl.data import Composite, Unbounded

from memo_lightning.construct import check_types, construct, keyword_names, resolve_class
from memo_lightning.errors import UserError
from memo_lightning.models import SequenceModel
from memo_lightning.policies.action import Action
from memo_lightning.policies.encoders import OBSERVATION, Encoder
from memo_lightning.policies.heads import PolicyHeads
from memo_lightning.policies.memory_policy import MemoryPolicy
from memo_lightning.policies.normalizer import Normalizer
from memo_lightning.policies.observation_keys import ObservationKey
from memo_lightning.policies.previous_step import PREVIOUS_STEP, previous_step_size
from memo_lightning.policies.spaces import space_from_plain, space_to_plain

TARGET = "_target_"


@dataclass(frozen=True)
class Interface:
    """The interface between an environment and a policy.

    Attributes:
        observation_space: space of the observations that the environment returns.
        keys: the parts of the observation that are used.
        action: the action that the environment takes.
        observes_reward: whether the RL^2 inputs include the reward.
    """

    observation_space: Space
    keys: Sequence[ObservationKey]
    action: Action
    observes_reward: bool = True

    def observed(self, batch_size: Sequence[int] = (1,)) -> Composite:
        """Return the specs of everything a policy may read, for a batch ``[*batch_size]``."""
        shape = tuple(batch_size)
        observations = Composite({key.name: key.spec(shape) for key in self.keys}, shape=shape)
        size = previous_step_size(self.action, with_reward=self.observes_reward)
        return Composite({OBSERVATION: observations, PREVIOUS_STEP: Unbounded((*shape, size))}, shape=shape)

    def as_plain(self) -> dict[str, Any]:
        """Convert the interface to strings, numbers, lists and dictionaries."""
        return {
            "observation_space": space_to_plain(self.observation_space),
            "keys": [[key.name, list(key.path), space_to_plain(key.space), key.layout] for key in self.keys],
            "action": space_to_plain(self.action.space),
            "masked": self.action.masked,
            "observes_reward": self.observes_reward,
        }

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Interface:
        """Rebuild an interface from the output of :meth:`as_plain`."""
        return Interface(
            space_from_plain(plain["observation_space"]),
            [
                # Checkpoints of development versions have no layout.
                ObservationKey(name, tuple(path), space_from_plain(space), *layout)
                for name, path, space, *layout in plain["keys"]
            ],
            Action(space_from_plain(plain["action"]), plain["masked"]),
            plain["observes_reward"],
        )


@dataclass(frozen=True)
class PolicySpec:
    """Everything needed to build a policy, without environment, configuration or trainer.

    Attributes:
        interface: observations and actions.
        encoder: ``_target_`` and settings of the encoder.
        memory: ``_target_`` and settings of the sequence model.
        heads: dotted path of the class of the heads.
        normalize_observations: whether vectors are normalised by running statistics.
        normalize_rewards: whether rewards are scaled by running statistics.
    """

    interface: Interface
    encoder: Mapping[str, Any]
    memory: Mapping[str, Any]
    heads: str
    normalize_observations: bool = False
    normalize_rewards: bool = False

    def build(self) -> MemoryPolicy:
        """Build the policy, with fresh weights.

        Raises:
            UserError: if the parts do not fit together, or one is of the wrong class.
        """
        interface, observed = self.interface, self.interface.observed()
        sequence_model = self.build_memory()
        normalizer = None
        if self.normalize_observations or self.normalize_rewards:
            sizes = {}
            if self.normalize_observations:
                vectors = [key for key in interface.keys if key.is_vector]
                sizes = {key.name: key.shape[0] for key in vectors}
                for name, size in sizes.items():  # normalised values may leave the bounds of the observation
                    observed[OBSERVATION, name] = Unbounded((1, size))
            rewards, observes_reward = self.normalize_rewards, interface.observes_reward
            normalizer = Normalizer(sizes, rewards=rewards, observes_reward=observes_reward)
        encoder = _build("encoder", self.encoder, Encoder, observed, sequence_model.d_model)
        heads = resolve_class("heads", self.heads, PolicyHeads)(sequence_model.d_model, interface.action)
        return MemoryPolicy(encoder, sequence_model, heads, normalizer, masked=interface.action.masked)

    def build_memory(self) -> SequenceModel:
        """Build the sequence model, with fresh weights; see :func:`build_memory`."""
        return build_memory(self.memory)

    def with_memory(self, changes: Mapping[str, Any]) -> PolicySpec:
        """Return a spec with ``changes`` to the settings of the memory, some of which may be newer than the checkpoint.

        Raises:
            UserError: if the memory has no such setting, or a value is of the wrong type.
        """
        if not changes:
            return self
        kind = resolve_class("model._target_", self.memory[TARGET], SequenceModel)
        of_class = keyword_names(kind)
        known = [name for name in dict.fromkeys([*self.memory, *of_class]) if name != TARGET]
        for name in changes:
            if name not in known:
                raise UserError(f"model.{name}: the checkpoint's memory has no such setting; it has {', '.join(known)}")
        check_types(kind, changes, "model.")
        return replace(self, memory={**self.memory, **changes})

    def as_plain(self) -> dict[str, Any]:
        """Convert the spec to strings, numbers, lists and dictionaries."""
        return {
            "interface": self.interface.as_plain(),
            "encoder": dict(self.encoder),
            "memory": dict(self.memory),
            "heads": self.heads,
            "normalize_observations": self.normalize_observations,
            "normalize_rewards": self.normalize_rewards,
        }

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> PolicySpec:
        """Rebuild a spec from the output of :meth:`as_plain`."""
        return PolicySpec(**{**plain, "interface": Interface.from_plain(plain["interface"])})


def build_memory(settings: Mapping[str, Any]) -> SequenceModel:
    """Build a sequence model from its ``settings``, which include ``_target_``, with fresh weights.

    Raises:
        UserError: if the settings do not fit it, or it is not a :class:`SequenceModel`.
    """
    return _build("model", settings, SequenceModel)


def _build(field: str, settings: Mapping[str, Any], kind: type, *args: Any) -> Any:
    target: type = resolve_class(f"{field}.{TARGET}", settings[TARGET], kind)
    return construct(target, *args, **{name: value for name, value in settings.items() if name != TARGET})
