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
    missing = {"config", "state_dict", "frames"} - set(checkpoint if isinstance(checkpoint, dict) else ())
    if missing:
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
    weights, own = _policy_weights(checkpoint), policy.state_dict()
    differing = sorted(set(own) ^ set(weights)) or [n for n in own if own[n].shape != weights[n].shape]
    if differing:
        changed = [f"model.{k}={v!r} (checkpoint: {trained[k]!r})" for k, v in changes.items() if v != trained[k]]
        raise UserError(
            f"the checkpoint is of another architecture: {', '.join(changed) or 'other observations or actions'}; "
            f"first weight that does not fit: {differing[0]}"
        )
    policy.load_state_dict(weights)
    return policy.eval()


def start_from(checkpoint: dict[str, Any], policy: MemoryPolicy, sequence_model: SequenceModel) -> list[str]:
    """Give a policy that is to be trained the weights of a checkpoint.

    Encoder and heads must be the checkpoint's. So must all weights of the memory that both have; a memory of another
    kind may have more (Memo its summary queries, over a full-context transformer) or fewer.

    Args:
        checkpoint: as :func:`load_checkpoint` returns it.
        policy: the policy, before its memory is swapped.
        sequence_model: the memory it is going to have.

    Returns:
        Names of the memory's weights that the checkpoint lacks; they keep their initial values.

    Raises:
        UserError: if the weights do not fit.
    """
    memory = "sequence_model."
    weights = _policy_weights(checkpoint)
    own = {name: value for name, value in policy.state_dict().items() if not name.startswith(memory)}
    own |= {f"{memory}{name}": value for name, value in sequence_model.state_dict().items()}
    shared = own.keys() & weights.keys()
    for name in sorted(own):
        if name in shared and own[name].shape != weights[name].shape:
            trained, needed = tuple(weights[name].shape), tuple(own[name].shape)
            raise UserError(f"checkpoint: {name} has shape {trained} there, must have {needed} here")
        if name not in shared and not name.startswith(memory):
            raise UserError(f"checkpoint: it lacks {name}; it was trained with another encoder or other actions")
    if not any(name.startswith(memory) for name in shared):
        raise UserError(f"checkpoint: none of its weights are those of a {type(sequence_model).__name__}")
    policy.load_state_dict({name: weights[name] for name in shared if not name.startswith(memory)}, strict=False)
    of_memory = {name.removeprefix(memory): weights[name] for name in shared if name.startswith(memory)}
    sequence_model.load_state_dict(of_memory, strict=False)
    return sorted(name.removeprefix(memory) for name in own.keys() - shared)


def _policy_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    prefix = "policy."
    return {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
