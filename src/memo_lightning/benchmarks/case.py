"""One measurement: a memory at one length of context, in a process of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from memo_lightning.models import SequenceModel
from memo_lightning.models.feed_forward import compile_feed_forwards
from memo_lightning.policies.spec import build_memory

Kind = Literal["update", "acting", "staggered", "streaming"]


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        kind: what is measured.
        memory: name of the memory.
        model: ``_target_`` and settings of the model.
        context_length: steps of history, or of an update.
        settings: those of ``conf/benchmark.yaml`` that are the same for all cases.
    """

    kind: Kind
    memory: str
    model: dict[str, Any]
    context_length: int
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        """What tells the case from all others of a benchmark."""
        return f"{self.kind}/{self.memory}/{self.context_length}"

    @property
    def n_turns(self) -> int:
        """How often it is measured, each time on other inputs."""
        return 1 if self.kind == "streaming" else self.settings["input_sets"]

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device(self.settings["device"])

    @property
    def segment_length(self) -> int:
        """Steps between boundaries, for memories that have them."""
        return self.settings["model"]["segment_length"]

    def build_model(self) -> SequenceModel:
        """Return the memory, with fresh weights."""
        torch.set_num_threads(self.settings["threads"])
        torch.manual_seed(self.settings["seed"])
        model = build_memory(self.model).to(self.device)
        if self.settings["compile"]:
            compile_feed_forwards(model)
        return model

    def inputs(self, n_sequences: int, length: int, seed: int = 0) -> Tensor:
        """Return inputs ``[n_sequences, length, D]``; another seed gives others."""
        generator = torch.Generator().manual_seed(self.settings["seed"] + seed)
        return torch.randn(n_sequences, length, self.settings["model"]["d_model"], generator=generator).to(self.device)

    def autocast(self) -> AbstractContextManager:
        """Return the context in which the model computes."""
        enabled = self.settings["precision"] == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)
