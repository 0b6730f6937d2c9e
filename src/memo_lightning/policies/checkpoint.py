"""Reading checkpoints, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memo_lightning.errors import UserError
from memo_lightning.policies.memory_policy import MemoryPolicy
from memo_lightning.policies.spec import PolicySpec
from memo_lightning.wording import one_line

FORMAT = 2  # version of the checkpoint format; incremented with every change that older versions could not read
FORMAT_KEY = "memo_format"
_NEEDED = ("config", "state_dict", "frames", "mlflow_run_id", "policy_spec")
_POLICY = "policy."  # prefix of the policy's weights in a checkpoint


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ``memo train``.

    Raises:
        UserError: if it is missing, truncated, of another version, or not a checkpoint of this project.
    """
    if not path.is_file():
        raise UserError(f"checkpoint={path}: no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch passes on whatever its readers raise
        raise UserError(f"checkpoint={path}: not a readable checkpoint, or truncated ({one_line(error)})") from None
    held = checkpoint if isinstance(checkpoint, dict) else {}
    if "rollouts_done" in held and held.get(FORMAT_KEY) != FORMAT:
        written = held.get("memo_version", "0.1")
        raise UserError(
            f"checkpoint={path}: written by memo-lightning {written}, whose checkpoints this version cannot read; "
            f"pip install 'memo-lightning=={written}.*', or train again"
        )
    if missing := sorted(set(_NEEDED).difference(held)):
        raise UserError(f"checkpoint={path}: not a checkpoint of memo train; it lacks {', '.join(missing)}")
    return checkpoint


def policy_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a checkpoint's policy, under their names in :class:`MemoryPolicy`."""
    return {k.removeprefix(_POLICY): v for k, v in checkpoint["state_dict"].items() if k.startswith(_POLICY)}


def restore_policy(checkpoint: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[PolicySpec, MemoryPolicy]:
    """Rebuild a checkpoint's policy in ``eval()`` mode, and return its spec and the policy.

    Args:
        checkpoint: as returned by :func:`read_checkpoint`.
        changes: settings of the sequence model that override the checkpoint's.

    Raises:
        UserError: if the weights do not fit the model; the message names the settings that differ.
    """
    trained = PolicySpec.from_plain(checkpoint["policy_spec"])
    spec = trained.with_memory(changes)
    policy, weights = spec.build(), policy_weights(checkpoint)
    changed = [
        f"model.{name}={value!r} (checkpoint: {trained.memory.get(name)!r})"
        for name, value in changes.items()
        if value != trained.memory.get(name)
    ]
    check_architecture(weights, policy.state_dict(), changed)
    policy.load_state_dict(weights)
    return spec, policy.eval()


def check_architecture(weights: Mapping[str, Tensor], needed: Mapping[str, Tensor], changed: list[str]) -> None:
    """Raise :class:`UserError` unless a checkpoint's ``weights`` have exactly the names and shapes ``needed``.

    Args:
        weights: weights of the checkpoint.
        needed: weights of the policy that is to load them.
        changed: settings that differ, for the message.
    """
    differing = sorted(needed.keys() ^ weights.keys()) or [n for n in needed if needed[n].shape != weights[n].shape]
    if differing:
        raise UserError(
            f"the checkpoint has a different architecture: {', '.join(changed) or 'other observations or actions'}; "
            f"first weight that does not fit: {differing[0]}"
        )
