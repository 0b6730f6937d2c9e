"""Compact storage for the images of a trial: equal ones once, and photographs only as large as there is room."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_FLAT_COLOURS = 64  # a drawing has no more colours, and is kept without loss
_FLAT_SIDE = 800  # pixels; a larger drawing is scaled down like a photograph
# Longer side in pixels and quality of photographs, in the order in which they are tried.
_LADDER = ((480, 75), (360, 65), (280, 55), (224, 45), (160, 40), (128, 35), (96, 30), (64, 30))
_SAMPLE = 16  # images by which a rung of the ladder is assessed


class FrameAlbum:
    """The images of a trial, one per step, encoded as WebP.

    Drawings are stored without loss. Photographs are shrunk until all images fit.
    """

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._drawings: dict[int, bytes] = {}
        self._photographs: dict[int, bytes] = {}
        self._of_step: list[int] = []

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._of_step)

    def add(self, image: NDArray[np.uint8]) -> None:
        """Add the image of the next step, uint8 ``[H, W, 3]``."""
        key = hashlib.blake2b(image.tobytes() + str(image.shape).encode(), digest_size=16).digest()
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            picture = Image.fromarray(image)
            few = picture.getcolors(_FLAT_COLOURS) is not None
            if few and max(image.shape[:2]) <= _FLAT_SIDE:
                self._drawings[number] = _encode(picture, lossless=True, quality=80)
            else:
                self._photographs[number] = _encode(_shrunk(picture, _LADDER[0][0]), quality=85)
        self._of_step.append(number)

    def packed(self, max_bytes: int) -> dict[str, Any]:
        """Return what the page reads: ``images`` as base64, and ``of_step``, the index of each step's image.

        Args:
            max_bytes: size limit of all images, before base64.
        """
        images = {**self._drawings, **self._fitting(max_bytes - sum(map(len, self._drawings.values())))}
        return {
            "images": [base64.b64encode(images[number]).decode() for number in range(len(images))],
            "of_step": self._of_step,
        }

    def _fitting(self, room: int) -> dict[int, bytes]:
        """Return the photographs, encoded again so that they take at most ``room`` bytes, if possible."""
        if not self._photographs:
            return {}
        sample = list(self._photographs)[:: -(-len(self._photographs) // _SAMPLE)]
        encoded: dict[int, bytes] = {}
        for side, quality in _LADDER:
            estimate = sum(len(_again(self._photographs[number], side, quality)) for number in sample)
            if estimate * len(self._photographs) / len(sample) > room and (side, quality) != _LADDER[-1]:
                continue
            encoded = {number: _again(data, side, quality) for number, data in self._photographs.items()}
            if sum(map(len, encoded.values())) <= room:
                break
        return encoded


def _again(data: bytes, side: int, quality: int) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        return _encode(_shrunk(picture, side), quality=quality)


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    """Return the image, scaled down so that its longer side has at most ``side`` pixels."""
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def _encode(picture: Image.Image, **settings: Any) -> bytes:
    file = io.BytesIO()
    picture.convert("RGB").save(file, "WEBP", method=4, **settings)
    return file.getvalue()
