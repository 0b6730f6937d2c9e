"""One texture for all patches of a model: a rectangle for each, filled from the solids' paints.

The light that falls on a face is painted in, so a renderer that adds no light of its own shows what the ray
caster shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from memo_lightning.envs.habitat.scene_files.patches import Patch
from memo_lightning.houses.ray_caster import brightness, normal_at, shows_first
from memo_lightning.houses.shapes import SolidArrays

MAX_SIDE = 4096
_TEXELS_PER_ELEMENT = 6  # of a pattern
_FINEST, _COARSEST = 0.005, 0.04  # metres per texel
_MARGIN = 1  # texels around each rectangle, so that filtering does not mix in its neighbours


class Atlas:
    """A texture that holds a rectangle for every patch.

    Args:
        patches: the patches of each solid.
        solids: the solids they belong to.

    Attributes:
        image: the texture, uint8 ``[side, side, 3]``.
    """

    def __init__(self, patches: Sequence[Sequence[Patch]], solids: SolidArrays) -> None:
        coarser = 1.0
        while True:
            sizes = np.array(
                [_texels(patch, solids, k, coarser) for k, group in enumerate(patches) for patch in group], int
            )
            side, corners = _pack(sizes + 2 * _MARGIN)
            if side <= MAX_SIDE:
                break
            coarser *= 1.5
        self._sizes, self._corners = sizes, corners + _MARGIN
        self.image = np.zeros((side, side, 3), np.uint8)
        flat = ((k, patch) for k, group in enumerate(patches) for patch in group)
        for (k, patch), (width, height), (x, y) in zip(flat, self._sizes, self._corners, strict=True):
            u, v = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
            part = np.empty((height, width, 3), np.uint8)
            _paint(solids.kind[k], solids.shape[k], solids.pattern[k], solids.paint[k], patch.at(u, v), part)
            part = np.pad(part, ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)), mode="edge")
            self.image[y - _MARGIN : y + height + _MARGIN, x - _MARGIN : x + width + _MARGIN] = part

    def texture_coordinates(self, index: int, uv: np.ndarray) -> np.ndarray:
        """Return the texture coordinates ``[n, 2]`` of points (u, v) ``[n, 2]`` of patch ``index``.

        Patches are numbered across all solids. Both coordinates go from 0 to 1, the second upwards.
        """
        side = len(self.image)
        texel = self._corners[index] + uv * self._sizes[index]
        return np.stack([texel[:, 0] / side, 1.0 - texel[:, 1] / side], axis=1)


def _texels(patch: Patch, solids: SolidArrays, index: int, coarser: float) -> tuple[int, int]:
    plain_and_flat = solids.pattern[index] == 0 and patch.steps == (1, 1)
    if plain_and_flat:
        return 2, 2
    size = float(solids.paint[index, 6]) / _TEXELS_PER_ELEMENT if solids.pattern[index] else 0.02
    texel = min(max(size, _FINEST), _COARSEST) * coarser
    width, height = (max(2, round(length / texel)) for length in patch.size)
    return width, height


def _pack(sizes: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the side of a square that holds rectangles ``[n, 2]``, and their corners ``[n, 2]``.

    They are placed row by row, the tallest first.
    """
    side = 64
    while side**2 < 1.05 * sizes.prod(axis=1).sum() or side < sizes[:, 0].max():
        side *= 2
    corners = np.empty_like(sizes)
    x = y = row = 0
    for k in np.argsort(-sizes[:, 1], kind="stable"):
        width, height = sizes[k]
        if x + width > side:
            x, y, row = 0, y + row, 0
        corners[k] = x, y
        x, row = x + width, max(row, height)
    while y + row > side:
        side *= 2
    return side, corners


@njit(cache=True, error_model="numpy")
def _paint(kind, shape, pattern, paint, points, rgb):  # type: ignore[no-untyped-def]
    for i in range(rgb.shape[0]):
        for j in range(rgb.shape[1]):
            x, y, z = points[i, j]
            nx, ny, nz = normal_at(kind, shape, x, y, z)
            start = 0 if shows_first(pattern, paint[6], x, y, z, nx, ny, nz) else 3
            light = brightness(nx, ny, nz, shape[6], shape[7])
            for channel in range(3):
                rgb[i, j, channel] = np.uint8(min(light * paint[start + channel], 255.0))
