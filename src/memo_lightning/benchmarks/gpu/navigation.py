"""Device memory of an object navigation update at the paper's size: 20 sequences of 4,096 steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from memo_lightning.benchmarks.gpu.measure import Settings
from memo_lightning.benchmarks.gpu.memories import Sizes, build
from memo_lightning.benchmarks.timing import PeakMemory, seconds_of

_N_FEATURES = 768  # of a ViT-B
_IMAGE_SIZE = 64


def measure_features(settings: Settings, sizes: Sizes, rows: int, n_steps: int) -> dict[str, Any]:
    """Measure an update from features ``[B, T, 768]`` kept on the device, such as those of a frozen ViT.

    Returns:
        See :func:`_update`.
    """
    n_features = 32 if settings.tiny else _N_FEATURES
    features = settings.inputs(1, n_steps, n_features).expand(rows, -1, -1).contiguous()
    return _update(settings, sizes, nn.Linear(n_features, sizes.d_model), features, chunk=None)


def measure_images(settings: Settings, sizes: Sizes, rows: int, n_steps: int, chunk: int | None) -> dict[str, Any]:
    """Measure an update from images ``[B, T, 64, 64, 4]`` (colours and depth), encoded with gradients.

    Args:
        settings: settings of all measurements.
        sizes: sizes of the memory.
        rows: number of sequences.
        n_steps: steps per sequence.
        chunk: steps encoded at a time, and again in the backward pass; None for all at once.

    Returns:
        See :func:`_update`.
    """
    from memo_lightning.policies.image_encoder import ImageEncoder  # its package needs TorchRL

    size = 16 if settings.tiny else _IMAGE_SIZE
    shape = (rows, n_steps, size, size, 4)
    images = torch.randint(256, shape, dtype=torch.uint8, device=settings.device)
    return _update(settings, sizes, ImageEncoder(shape[2:], sizes.d_model), images, chunk)


def _update(
    settings: Settings, sizes: Sizes, encoder: nn.Module, observed: Tensor, chunk: int | None
) -> dict[str, Any]:
    """Run an update through ``encoder`` and Memo, whose segments are checkpointed.

    Returns:
        Whether the update ``fits``, ``chunk`` and ``observation_bytes``; if it fits, also ``peak_bytes`` beyond weights
        and observations, and ``seconds_of_update``.
    """
    encoder.to(settings.device)
    model = build("memo_checkpointed", sizes).to(settings.device).train()

    def encode() -> Tensor:
        if chunk is None:
            return encoder(observed)
        parts = [checkpoint(encoder, part, use_reentrant=False) for part in observed.split(chunk, dim=1)]
        return torch.cat(parts, dim=1)

    def update() -> None:
        for parameter in (*encoder.parameters(), *model.parameters()):
            parameter.grad = None
        x = encode()
        with settings.autocast("bfloat16"):
            y = model(x, segment_length=model.segment_length)
        y.float().square().mean().backward()

    peak = PeakMemory(settings.torch_device)
    try:
        update()
    except torch.OutOfMemoryError:
        return {"fits": False, "chunk": chunk, "observation_bytes": observed.nbytes}
    peak_bytes = peak.read()
    return {
        "fits": True,
        "chunk": chunk,
        "peak_bytes": peak_bytes,
        "observation_bytes": observed.nbytes,
        "seconds_of_update": seconds_of(update, settings.torch_device)[0],
    }
