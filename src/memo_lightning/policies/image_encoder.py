"""A small convolutional network that encodes images as vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SMALL = 8  # pixels; sides of this length or shorter are not downsampled


class ImageEncoder(nn.Module):
    """Convolutions that halve the image until it is small, followed by a linear layer.

    Images stay uint8 until they arrive here. They take a quarter of the memory in a rollout, and of the time to move
    to another device.

    Args:
        shape: height, width and channels of the images.
        d_model: width of the output.
    """

    def __init__(self, shape: tuple[int, ...], d_model: int) -> None:
        super().__init__()
        height, width, channels = shape
        layers: list[nn.Module] = []
        n_filters = 32
        while True:
            stride = (2 if height > _SMALL else 1, 2 if width > _SMALL else 1)
            # Normalised (so no bias is needed), as symbolic images use small values but photographs the full range.
            convolution = nn.Conv2d(channels, n_filters, 3, stride, padding=1, bias=False)
            layers += [convolution, nn.GroupNorm(1, n_filters), nn.GELU()]
            height, width = -(-height // stride[0]), -(-width // stride[1])
            channels, n_filters = n_filters, 64
            if max(height, width) <= _SMALL and len(layers) > 3:
                break
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, d_model))

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 ``[*batch, H, W, C]`` to ``[*batch, d_model]``."""
        pixels = images.flatten(0, -4).permute(0, 3, 1, 2).float() / 255
        return self.layers(pixels.contiguous(memory_format=torch.channels_last)).unflatten(0, images.shape[:-3])
