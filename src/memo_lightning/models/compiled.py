"""Compiling the parts of a memory that pay on its device."""

from __future__ import annotations

import torch
from torch import nn

from memo_lightning.models.feed_forward import FeedForward
from memo_lightning.models.transformer import Block


def compile_parts(model: nn.Module, device: torch.device) -> None:
    """Compile parts of ``model`` for training on ``device``, in place.

    On CUDA, where every kernel saved counts, these are all of a block but its attention, in passes with gradient. On
    the CPU, and outside of blocks, they are the gated MLPs. Whole models branch on trial starts and loop over segments,
    so they would be compiled again and again.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block) and device.type == "cuda"]
    for block in blocks:
        block.compiles_updates, block.feed_forward.saves_input_only = True, False
    in_blocks = [block.feed_forward for block in blocks]
    for module in model.modules():
        if isinstance(module, FeedForward) and module not in in_blocks:
            module.compile(dynamic=True)


def is_compilable(model: nn.Module) -> bool:
    """Return whether ``model`` has parts to compile: every block has an MLP, so MLPs decide."""
    return any(isinstance(module, FeedForward) for module in model.modules())
