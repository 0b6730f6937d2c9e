"""Beginning with the weights of a checkpoint: those of the run itself, or of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from memo_lightning.algorithms import Algorithm
from memo_lightning.errors import UserError
from memo_lightning.models import SequenceModel
from memo_lightning.policies import MemoryPolicy
from memo_lightning.policies.checkpoint import check_architecture, policy_weights

_MEMORY = "sequence_model."  # what the names of a policy's weights begin with that are its memory's


def check_same_architecture(
    checkpoint: Mapping[str, Any], config: Mapping[str, Any], policy: MemoryPolicy, sequence_model: SequenceModel
) -> None:
    """Check that a run can be resumed from a checkpoint with a configuration that may have been changed since.

    Args:
        checkpoint: as :func:`~memo_lightning.policies.checkpoint.read_checkpoint` returns it.
        config: the run's resolved configuration.
        policy: the policy that is to be trained, before its memory is swapped.
        sequence_model: the memory it is going to have.

    Raises:
        UserError: if the weights do not fit; the message names the settings that differ.
    """
    changed = _changed_settings(checkpoint["config"], config)
    check_architecture(policy_weights(checkpoint), _weights_with(policy, sequence_model), changed)


def check_same_algorithm(checkpoint: Mapping[str, Any], config: Mapping[str, Any], algorithm: Algorithm) -> None:
    """Check that what an algorithm has learned for itself fits settings that may have been changed since.

    Args:
        checkpoint: as :func:`~memo_lightning.policies.checkpoint.read_checkpoint` returns it.
        config: the run's resolved configuration.
        algorithm: the algorithm, prepared for a policy.

    Raises:
        UserError: if critics or other weights do not fit; the message names the settings that differ.
    """
    prefix, trained = "algorithm.", checkpoint["config"]["algorithm"]
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    changed = [
        f"algorithm.{key}={value!r} (checkpoint: {trained.get(key)!r})"
        for key, value in config["algorithm"].items()
        if value != trained.get(key)
    ]
    check_architecture(weights, algorithm.state_dict(), changed)


def start_from(
    checkpoint: Mapping[str, Any], config: Mapping[str, Any], policy: MemoryPolicy, sequence_model: SequenceModel
) -> list[str]:
    """Give a policy that is to be trained the weights of a checkpoint.

    Encoder and heads must be the checkpoint's. So must all weights of the memory that both have; a memory of another
    kind may have more (Memo its summary queries, over a full-context transformer) or fewer.

    Args:
        checkpoint: as :func:`~memo_lightning.policies.checkpoint.read_checkpoint` returns it.
        config: the resolved configuration of the run that is to begin.
        policy: the policy, before its memory is swapped.
        sequence_model: the memory it is going to have.

    Returns:
        Names of the memory's weights that the checkpoint lacks; they keep their initial values.

    Raises:
        UserError: if the weights do not fit; the message names the settings that differ.
    """
    weights, own = policy_weights(checkpoint), _weights_with(policy, sequence_model)
    shared = own.keys() & weights.keys()
    if not any(name.startswith(_MEMORY) for name in shared):
        raise UserError(f"checkpoint: none of its weights are those of a {type(sequence_model).__name__}")
    needed = {name: value for name, value in own.items() if name in shared or not name.startswith(_MEMORY)}
    wanted = {name: value for name, value in weights.items() if name in needed}
    check_architecture(wanted, needed, _changed_settings(checkpoint["config"], config))
    policy.load_state_dict({name: weights[name] for name in shared if not name.startswith(_MEMORY)}, strict=False)
    of_memory = {name.removeprefix(_MEMORY): weights[name] for name in shared if name.startswith(_MEMORY)}
    sequence_model.load_state_dict(of_memory, strict=False)
    return sorted(name.removeprefix(_MEMORY) for name in own.keys() - shared)


def _weights_with(policy: MemoryPolicy, sequence_model: SequenceModel) -> dict[str, Tensor]:
    """Return the weights that ``policy`` will have once ``sequence_model`` is its memory."""
    own = {name: value for name, value in policy.state_dict().items() if not name.startswith(_MEMORY)}
    return own | {f"{_MEMORY}{name}": value for name, value in sequence_model.state_dict().items()}


def _changed_settings(trained: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return the settings of environment, encoder and memory that are not those of training."""
    nodes = ("env", "encoder", "baseline" if trained["baseline"] and config["baseline"] else "model")
    return [
        f"{node}.{key}={value!r} (checkpoint: {trained[node].get(key)!r})"
        for node in nodes
        for key, value in config[node].items()
        if value != trained[node].get(key)
    ]
