"""The base of all models that are built on a transformer."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Unpack

import torch

from memo_lightning.models.base import MemoryScope, PassSettings, SequenceModel
from memo_lightning.models.transformer import Transformer, TransformerSizes


class TransformerModel(SequenceModel, ABC):
    """A model built on a :class:`Transformer`, with LayerDrop (Fan et al. 2020, arXiv 1909.11556).

    In ``train()`` mode, each pass of ``forward`` skips some layers as if they did not exist. They are the same in all
    sequences and segments, because keys and values of one segment are read in the next. Acting, ``prefill`` and
    ``eval()`` run all layers, without rescaling.

    Args:
        memory_scope: what the memory spans; see :class:`SequenceModel`.
        **sizes: arguments of :class:`Transformer`: ``d_model, n_layers, n_heads, d_ff`` and, optionally, ``sink_kv,
            rope_base, norm_eps, layer_drop``.

    Attributes:
        transformer: the layers, and the probability ``layer_drop`` that a pass skips one.

    Raises:
        ValueError: if the sizes do not fit together.
    """

    def __init__(self, memory_scope: MemoryScope = "trial", **sizes: Unpack[TransformerSizes]) -> None:
        super().__init__(sizes["d_model"], memory_scope)
        self.transformer = Transformer(**sizes)

    def draw_pass(self, generator: torch.Generator | None = None) -> PassSettings:
        """Draw the random settings of a training pass; see :meth:`SequenceModel.draw_pass`."""
        settings = super().draw_pass(generator)
        return {**settings, "dropped_layers": self.transformer.draw_dropped_layers(generator)}

    def acting_pass(self) -> PassSettings:
        """Return the settings of a pass that equals acting; see :meth:`SequenceModel.acting_pass`."""
        return {**super().acting_pass(), "dropped_layers": ()}

    def dropped_in_pass(self, dropped_layers: Sequence[int] | None) -> Sequence[int]:
        """Return the layers that a pass skips: those given, else a draw in ``train()`` mode and none in ``eval()``."""
        if dropped_layers is not None:
            return dropped_layers
        return self.transformer.draw_dropped_layers() if self.training else ()
