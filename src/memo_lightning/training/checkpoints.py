"""Reading checkpoints, without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torchrl.envs import EnvBase

from memo_lightning.callbacks.baselines import Baseline
from memo_lightning.config import build
from memo_lightning.errors import UserError
from memo_lightning.models import SequenceModel
from memo_lightning.policies import MemoryPolicy
from memo_lightning.policies.build import build_policy

_POLICY = "policy."  # what the names of the policy's weights begin with in a checkpoint
_MEMORY = "sequence_model."  # and, after that, those of its memory


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ``memo train``.

    Raises:
        UserError: if it is missing, truncated, or something else than a checkpoint of this project.
    """
    if not path.is_file():
        raise UserError(f"checkpoint={path}: no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its readers raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint={path}: not a readable checkpoint, or truncated ({reason})") from None
    held = checkpoint if isinstance(checkpoint, dict) else ()
    if missing := {"config", "state_dict", "frames", "mlflow_run_id"}.difference(held):
        raise UserError(f"checkpoint={path}: not a checkpoint of memo train; it lacks {', '.join(sorted(missing))}")
    return checkpoint


def restore_policy(checkpoint: dict[str, Any], changes: dict[str, Any], env: EnvBase) -> MemoryPolicy:
    """Rebuild a checkpoint's policy, with the memory it was trained with.

    Args:
        checkpoint: as :func:`load_checkpoint` returns it.
        changes: settings of the sequence model to be used instead of the checkpoint's.
        env: an environment with the spaces the policy was trained on.

    Raises:
        UserError: if the weights do not fit the model; the message names the settings that differ.
    """
    config: DictConfig = OmegaConf.create(checkpoint["config"])
    settings = config.baseline or config.model
    trained = dict(settings)
    unknown = sorted(set(changes) - set(trained))
    if unknown:
        raise UserError(f"model.{unknown[0]}: the checkpoint's memory has no such setting; it has {', '.join(trained)}")
    settings.update(changes)
    policy = build_policy(config, env)
    if config.baseline:
        baseline: Baseline = build(config.baseline)
        baseline.apply(policy)
    changed = [f"model.{k}={v!r} (checkpoint: {trained[k]!r})" for k, v in changes.items() if v != trained[k]]
    weights = _policy_weights(checkpoint)
    _check_architecture(weights, policy.state_dict(), changed)
    policy.load_state_dict(weights)
    return policy.eval()


def check_same_architecture(
    checkpoint: dict[str, Any], config: dict[str, Any], policy: MemoryPolicy, sequence_model: SequenceModel
) -> None:
    """Check that a run can go on from a checkpoint with a configuration that may have been changed since.

    Args:
        checkpoint: as :func:`load_checkpoint` returns it.
        config: the run's resolved configuration.
        policy: the policy that is to be trained, before its memory is swapped.
        sequence_model: the memory it is going to have.

    Raises:
        UserError: if the weights do not fit; the message names the settings that differ.
    """
    changed = _changed_settings(checkpoint["config"], config)
    _check_architecture(_policy_weights(checkpoint), _weights_with(policy, sequence_model), changed)


def start_from(
    checkpoint: dict[str, Any], config: dict[str, Any], policy: MemoryPolicy, sequence_model: SequenceModel
) -> list[str]:
    """Give a policy that is to be trained the weights of a checkpoint.

    Encoder and heads must be the checkpoint's. So must all weights of the memory that both have; a memory of another
    kind may have more (Memo its summary queries, over a full-context transformer) or fewer.

    Args:
        checkpoint: as :func:`load_checkpoint` returns it.
        config: the resolved configuration of the run that is to begin.
        policy: the policy, before its memory is swapped.
        sequence_model: the memory it is going to have.

    Returns:
        Names of the memory's weights that the checkpoint lacks; they keep their initial values.

    Raises:
        UserError: if the weights do not fit; the message names the settings that differ.
    """
    weights, own = _policy_weights(checkpoint), _weights_with(policy, sequence_model)
    shared = own.keys() & weights.keys()
    if not any(name.startswith(_MEMORY) for name in shared):
        raise UserError(f"checkpoint: none of its weights are those of a {type(sequence_model).__name__}")
    needed = {name: value for name, value in own.items() if name in shared or not name.startswith(_MEMORY)}
    wanted = {name: value for name, value in weights.items() if name in needed}
    _check_architecture(wanted, needed, _changed_settings(checkpoint["config"], config))
    policy.load_state_dict({name: weights[name] for name in shared if not name.startswith(_MEMORY)}, strict=False)
    of_memory = {name.removeprefix(_MEMORY): weights[name] for name in shared if name.startswith(_MEMORY)}
    sequence_model.load_state_dict(of_memory, strict=False)
    return sorted(name.removeprefix(_MEMORY) for name in own.keys() - shared)


def _policy_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    return {k.removeprefix(_POLICY): v for k, v in checkpoint["state_dict"].items() if k.startswith(_POLICY)}


def _weights_with(policy: MemoryPolicy, sequence_model: SequenceModel) -> dict[str, Tensor]:
    """Return the weights that ``policy`` will have once ``sequence_model`` is its memory."""
    own = {name: value for name, value in policy.state_dict().items() if not name.startswith(_MEMORY)}
    return own | {f"{_MEMORY}{name}": value for name, value in sequence_model.state_dict().items()}


def _check_architecture(weights: dict[str, Tensor], needed: dict[str, Tensor], changed: list[str]) -> None:
    """Raise :class:`UserError` unless a checkpoint's ``weights`` are those that are ``needed`` and no others."""
    differing = sorted(needed.keys() ^ weights.keys()) or [n for n in needed if needed[n].shape != weights[n].shape]
    if differing:
        raise UserError(
            f"the checkpoint is of another architecture: {', '.join(changed) or 'other observations or actions'}; "
            f"first weight that does not fit: {differing[0]}"
        )


def _changed_settings(trained: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Return the settings of environment, encoder and memory that are not those of training."""
    nodes = ("env", "encoder", "baseline" if trained["baseline"] and config["baseline"] else "model")
    return [
        f"{node}.{key}={value!r} (checkpoint: {trained[node].get(key)!r})"
        for node in nodes
        for key, value in config[node].items()
        if value != trained[node].get(key)
    ]
