"""A benchmark case: one memory at one context length, measured in its own process."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from memo_lightning.models import SequenceModel
from memo_lightning.models.compiled import compile_parts
from memo_lightning.models.device import prepare_device
from memo_lightning.policies.spec import build_memory

Kind = Literal["update", "acting", "staggered", "streaming"]


@dataclass(frozen=True)
class Case:
    """One case of a benchmark.

    Attributes:
        kind: kind of measurement.
        memory: name of the memory.
        model: ``_target_`` and settings of the model.
        context_length: steps of the history or, for an update, of the sequences.
        settings: settings of ``conf/benchmark.yaml`` that all cases share.
    """

    kind: Kind
    memory: str
    model: dict[str, Any]
    context_length: int
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        """Key that identifies the case within a benchmark."""
        return f"{self.kind}/{self.memory}/{self.context_length}"

    @property
    def n_turns(self) -> int:
        """Number of measurements, each on different inputs."""
        return 1 if self.kind == "streaming" else self.settings["input_sets"]

    @property
    def device(self) -> torch.device:
        """Device the case runs on."""
        return torch.device(self.settings["device"])

    @property
    def segment_length(self) -> int:
        """Steps between segment boundaries, for memories that have them."""
        return self.settings["model"]["segment_length"]

    def build_model(self) -> SequenceModel:
        """Build the memory with fresh weights."""
        prepare_device(self.device)
        torch.set_num_threads(self.settings["threads"])
        torch.manual_seed(self.settings["seed"])
        model = build_memory(self.model).to(self.device)
        if self.settings["compile"]:
            compile_parts(model, self.device)
        return model

    def inputs(self, n_sequences: int, length: int, seed: int = 0) -> Tensor:
        """Return random inputs ``[n_sequences, length, D]``; a different seed gives different ones."""
        generator = torch.Generator().manual_seed(self.settings["seed"] + seed)
        return torch.randn(n_sequences, length, self.settings["model"]["d_model"], generator=generator).to(self.device)

    def autocast(self) -> AbstractContextManager:
        """Return the autocast context for the case's precision."""
        enabled = self.settings["precision"] == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)
