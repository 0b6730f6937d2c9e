"""Baselines: a callback that puts another memory into the policy before anything is built around it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import lightning

from memo_lightning.construct import accepted, construct, resolve_class
from memo_lightning.errors import UserError
from memo_lightning.models import SequenceModel
from memo_lightning.policies import MemoryPolicy
from memo_lightning.policies.spec import TARGET

# Settings of conf/model/ that a baseline takes over if it has such a parameter and does not set it itself.
SHARED = (
    "d_model",
    "n_layers",
    "n_heads",
    "d_ff",
    "sink_kv",
    "layer_drop",
    "segment_length",
    "summary_length",
    "segment_jitter",
    "checkpoint_segments",
)
_LIMITS = ("memory_budget", "max_summary_age")  # settings of conf/model/ that a baseline does not take over


class Baseline(lightning.Callback):
    """Callback that replaces the policy's sequence model in ``setup``, before optimizer and collector exist.

    Encoder, heads, algorithm and environment stay the same, so that a comparison compares memories only.

    Args:
        target: dotted path of the model's class, a :class:`~memo_lightning.models.SequenceModel`.
        shared: settings of the model that is replaced; the new model takes over those that it knows, such as sizes and
            the settings that all transformers have.
        settings: further arguments of the model, given as a group.
        **own: arguments of the model, which take precedence over shared settings.

    Attributes:
        memory: ``_target_`` and all arguments of the model.
        model: the model that replaces the policy's.

    Raises:
        UserError: if there is no such model, or the settings do not fit it.
    """

    def __init__(
        self, *, target: str | None, shared: Mapping[str, Any], settings: Mapping[str, Any] | None = None, **own: Any
    ) -> None:
        if not target:
            raise UserError("baseline.target=null: must be the dotted path of a SequenceModel, e.g. my.module.MyModel")
        model_class = resolve_class("baseline.target", target, SequenceModel)
        for name in _LIMITS:
            if (limit := shared.get(name)) is not None:
                instead = f"; set baseline.{name}={limit}" if name in own else ""
                raise UserError(f"model.{name}={limit}: must be null with a baseline{instead}")
        common = accepted(model_class, {name: shared[name] for name in SHARED if name in shared})
        arguments = {**common, **own, **(settings or {})}
        self.memory = {TARGET: target, **arguments}
        self.model: SequenceModel = construct(model_class, **arguments)

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Swap the memory, and print a line about it."""
        policy = pl_module.policy
        assert isinstance(policy, MemoryPolicy)
        replaced = policy.sequence_model
        self.apply(policy)
        before, after = n_parameters(replaced), n_parameters(self.model)
        if trainer.is_global_zero:
            print(
                f"baseline: {type(self.model).__name__} in place of {type(replaced).__name__}, "
                f"{after:,} parameters instead of {before:,} (x{after / before:.2f})",
                file=sys.stderr,
            )

    def apply(self, policy: MemoryPolicy) -> None:
        """Swap the memory of ``policy``.

        Raises:
            UserError: if the memory does not fit the policy.
        """
        self.check(policy)
        policy.sequence_model = self.model
        policy.reset_state()

    def check(self, policy: MemoryPolicy) -> None:
        """Raise :class:`UserError` unless encoder and heads of ``policy`` fit the memory."""
        width = policy.sequence_model.d_model
        if self.model.d_model != width:
            raise UserError(f"baseline.d_model={self.model.d_model}: must be {width}, as in encoder and heads")


def n_parameters(model: SequenceModel) -> int:
    """Return the number of parameters of ``model``."""
    return sum(parameter.numel() for parameter in model.parameters())
