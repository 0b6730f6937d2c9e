"""Starting from a checkpoint: the run's own, to resume it, or the weights of another run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from memo_lightning.algorithms import Algorithm
from memo_lightning.errors import UserError
from memo_lightning.models import SequenceModel
from memo_lightning.policies import MemoryPolicy
from memo_lightning.policies.checkpoint import check_architecture, policy_weights

_MEMORY = "sequence_model."  # prefix of the memory's weights in a policy


def check_same_architecture(
    checkpoint: Mapping[str, Any], config: Mapping[str, Any], policy: MemoryPolicy, sequence_model: SequenceModel
) -> None:
    """Check that a run can be resumed from a checkpoint with a configuration that may have been changed since.

    Args:
        checkpoint: as :func:`~memo_lightning.policies.checkpoint.read_checkpoint` returns it.
        config: the run's resolved configuration.
        policy: the policy to train, before its memory is swapped.
        sequence_model: the memory that it will have.

    Raises:
        UserError: if the weights do not fit; the message names the settings that differ.
    """
    changed = _changed_settings(checkpoint["config"], config)
    check_architecture(policy_weights(checkpoint), _weights_with(policy, sequence_model), changed)


def check_same_algorithm(checkpoint: Mapping[str, Any], config: Mapping[str, Any], algorithm: Algorithm) -> None:
    """Check that an algorithm's own weights in a checkpoint fit settings that may have been changed since.

    Args:
        checkpoint: as :func:`~memo_lightning.policies.checkpoint.read_checkpoint` returns it.
        config: the run's resolved configuration.
        algorithm: the algorithm, prepared for a policy.

    Raises:
        UserError: if its weights, such as those of critics, do not fit; the message names the settings that differ.
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
    """Load the weights of a checkpoint into a policy before training.

    The encoder and heads must match the checkpoint. So must all memory weights that both have; a memory of another
    kind may have more (Memo has summary queries that a full-context transformer lacks) or fewer.

    Args:
        checkpoint: as :func:`~memo_lightning.policies.checkpoint.read_checkpoint` returns it.
        config: the resolved configuration of the new run.
        policy: the policy, before its memory is swapped.
        sequence_model: the memory that it will have.

    Returns:
        Names of the memory's weights that the checkpoint lacks; they keep their initial values.

    Raises:
        UserError: if the weights do not fit; the message names the settings that differ.
    """
    weights, own = policy_weights(checkpoint), _weights_with(policy, sequence_model)
    shared = own.keys() & weights.keys()
    if not any(name.startswith(_MEMORY) for name in shared):
        raise UserError(f"checkpoint: none of its weights fit a {type(sequence_model).__name__}")
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
    """Return the settings of environment, encoder and memory that differ from those of the checkpoint."""
    nodes = ("env", "encoder", "baseline" if trained["baseline"] and config["baseline"] else "model")
    return [
        f"{node}.{key}={value!r} (checkpoint: {trained[node].get(key)!r})"
        for node in nodes
        for key, value in config[node].items()
        if value != trained[node].get(key)
    ]
