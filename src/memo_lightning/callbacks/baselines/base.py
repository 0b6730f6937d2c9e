"""What all baselines do: put another memory in the policy, before anything is built around it."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import lightning

from memo_lightning.config import construct
from memo_lightning.errors import UserError
from memo_lightning.models import SequenceModel
from memo_lightning.policies import MemoryPolicy


class Baseline(lightning.Callback):
    """Replaces the policy's sequence model in ``setup``, before optimizer and collector exist.

    Encoder, heads, algorithm and environment stay as they are, so that a comparison compares memories.

    Args:
        settings: arguments of :attr:`model_class`.

    Attributes:
        model: the memory that takes the policy's place.

    Raises:
        UserError: if the settings do not fit the model.
    """

    model_class: ClassVar[type[SequenceModel]]

    def __init__(self, **settings: Any) -> None:
        self.model: SequenceModel = construct(self.model_class, **settings)

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Swap the memory, and say so."""
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
            UserError: if the parts do not fit.
        """
        self.check(policy)
        policy.sequence_model = self.model
        policy.forget()

    def check(self, policy: MemoryPolicy) -> None:
        """Raise :class:`UserError` unless encoder and heads of ``policy`` fit the memory."""
        width = policy.sequence_model.d_model
        if self.model.d_model != width:
            raise UserError(f"baseline.d_model={self.model.d_model}: must be {width}, as encoder and heads are")


def n_parameters(model: SequenceModel) -> int:
    """Return the number of trainable numbers in ``model``."""
    return sum(parameter.numel() for parameter in model.parameters())
