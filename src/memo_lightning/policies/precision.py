"""The parts of a policy that compute in full precision under mixed precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def full_precision(device: torch.device) -> AbstractContextManager:
    """Return a context that computes in float32 whatever the Trainer's precision.

    It is for the encoder, heads, distributions and losses. Under mixed precision only the matrix products and the
    attention of the memory use half precision. With a residual stream or logits in bfloat16, the probability ratio of
    PPO would differ from one before the first step.
    """
    return torch.autocast(device.type, enabled=False)
