"""Models whose training passes skip whole layers."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence

import torch

from memo_lightning.models.base import PassSettings, SequenceModel
from memo_lightning.models.transformer import Transformer


class LayerDropModel(SequenceModel, ABC):
    """A model built on a :class:`Transformer`, with LayerDrop (Fan et al. 2020, arXiv 1909.11556).

    In ``train()`` mode a whole pass of ``forward`` runs without some of the layers, the same ones in all rows and
    segments, as if they were not there: keys and values of one segment are read in the next. Acting, ``prefill`` and
    ``eval()`` run all of them, without rescaling.

    Attributes:
        transformer: the layers, and the probability ``layer_drop`` that a pass skips one.
    """

    transformer: Transformer

    def draw_pass(self, generator: torch.Generator | None = None) -> PassSettings:
        """Draw what is random in a training pass; see :meth:`SequenceModel.draw_pass`."""
        settings = super().draw_pass(generator)
        return {**settings, "dropped_layers": self.transformer.draw_dropped_layers(generator)}

    def acting_pass(self) -> PassSettings:
        """Return the settings of a pass like acting; see :meth:`SequenceModel.acting_pass`."""
        return {**super().acting_pass(), "dropped_layers": ()}

    def dropped_in_pass(self, dropped_layers: Sequence[int] | None) -> Sequence[int]:
        """Return the layers that a pass skips: those given, or else drawn in ``train()`` mode, none in ``eval()``."""
        if dropped_layers is not None:
            return dropped_layers
        return self.transformer.draw_dropped_layers() if self.training else ()
