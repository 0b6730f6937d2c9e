"""Which parts of a policy compute in full precision under mixed precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def full_precision(device: torch.device) -> AbstractContextManager:
    """Return the context of what is float32 whatever the Trainer's precision: encoder, heads, distributions, losses.

    Under mixed precision the matrix products and attention of the memory are half, and nothing else: a residual stream
    or logits in bfloat16 put the probability ratio of PPO off one before the first step.
    """
    return torch.autocast(device.type, enabled=False)
