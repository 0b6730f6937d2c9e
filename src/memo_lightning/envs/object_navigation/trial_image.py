"""An image of a trial for people: what the agent sees, how far away that is, and where it has been in the house."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from memo_lightning.envs.object_navigation.settings import image_camera
from memo_lightning.houses import OBJECT_TYPES, Pose
from memo_lightning.houses.rules import MAX_DEPTH

SIDE, HEADER, FOOTER = 288, 32, 40  # pixels of each of the three parts, and of the lines above and below them
CAMERA = image_camera(SIDE)
_METRES_PER_PIXEL = 0.05  # of the map that the simulator draws
_FREE, _BLOCKED, _PATH, _AGENT, _GOAL = (238, 238, 232), (120, 124, 130), (40, 110, 220), (20, 20, 24), (220, 30, 40)
_OBJECT = (150, 190, 120)  # of no type: stands for all objects in the legend
_COLOURS = {object_type.name: object_type.solids[0].paint.colour for object_type in OBJECT_TYPES}


def draw_trial(sim: Any, goal: str, path: Sequence[tuple[float, float]], text: str) -> np.ndarray:
    """Return an image, uint8 ``[HEADER + SIDE + FOOTER, 3 * SIDE, 3]``: a line of text, three parts and a legend.

    The parts are what the agent sees in colour, its depth image, and the map.

    Args:
        sim: the simulator, with ``look``, ``pose``, ``placement`` and ``pathfinder``.
        goal: name of the object type to find; its instances are ringed on the map.
        path: x, z of the agent's positions in this episode, metres.
        text: text of the line above.
    """
    rgb, depth = sim.look(CAMERA)
    near = matplotlib.colormaps["magma"](1 - np.clip(depth / MAX_DEPTH, 0, 1))[..., :3]
    parts = [rgb, np.round(255 * near).astype(np.uint8), _draw_map(sim, goal, path)]
    header = Image.new("RGB", (3 * SIDE, HEADER), (24, 26, 30))
    ImageDraw.Draw(header).text((8, 6), text, (245, 245, 245), ImageFont.load_default(18))
    return np.concatenate([np.asarray(header), np.concatenate(parts, axis=1), _draw_footer()])


def _draw_footer() -> np.ndarray:
    """Return the legend below the three parts, which explains them and every mark on the map."""
    footer = Image.new("RGB", (3 * SIDE, FOOTER), (255, 255, 255))
    draw, font = ImageDraw.Draw(footer), ImageFont.load_default(12)
    draw.text((8, 4), "what the agent sees", _AGENT, font)
    draw.text((SIDE + 8, 4), f"depth: bright is near, black {MAX_DEPTH:g} m or more", _AGENT, font)

    def explain(x: int, y: int, meaning: str) -> tuple[int, int]:
        """Write what a mark means; return the position of the mark."""
        draw.text((2 * SIDE + x + 16, y), meaning, _AGENT, font)
        return 2 * SIDE + x + 5, y + 8

    x, y = explain(4, 2, "agent")
    draw.polygon([(x, y - 6), (x - 4, y + 5), (x + 4, y + 5)], _AGENT)
    x, y = explain(68, 2, "path")
    draw.line([(x - 6, y), (x + 6, y)], _PATH, 3)
    x, y = explain(142, 2, "free floor")
    draw.rectangle((x - 5, y - 5, x + 5, y + 5), _FREE, _BLOCKED)
    x, y = explain(220, 2, "blocked")
    draw.rectangle((x - 5, y - 5, x + 5, y + 5), _BLOCKED)
    x, y = explain(4, 20, "object, in its colour")
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), _OBJECT, _AGENT)
    x, y = explain(142, 20, "ring: goal")
    draw.ellipse((x - 6, y - 6, x + 6, y + 6), outline=_GOAL, width=3)
    return np.asarray(footer)


def _draw_map(sim: Any, goal: str, path: Sequence[tuple[float, float]]) -> np.ndarray:
    lower, upper = (np.asarray(bound) for bound in sim.pathfinder.get_bounds())
    free = np.asarray(sim.pathfinder.get_topdown_view(_METRES_PER_PIXEL, float(sim.pose.y)))
    scale = (SIDE - 16) / max(upper[0] - lower[0], upper[2] - lower[2])  # pixels per metre
    size = (max(1, round((upper[0] - lower[0]) * scale)), max(1, round((upper[2] - lower[2]) * scale)))
    left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    image = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    colours = np.where(free[..., None], np.array(_FREE, np.uint8), np.array(_BLOCKED, np.uint8))
    image.paste(Image.fromarray(colours).resize(size, Image.Resampling.NEAREST), (left, top))
    draw = ImageDraw.Draw(image)

    def at(x: float, z: float) -> tuple[float, float]:
        return left + (x - lower[0]) * scale, top + (z - lower[2]) * scale

    for placed in sim.placement.objects:
        x, y = at(placed.position[0], placed.position[2])
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), _COLOURS[placed.type], _AGENT)
        if placed.type == goal:
            draw.ellipse((x - 9, y - 9, x + 9, y + 9), outline=_GOAL, width=3)
    if len(path) > 1:
        draw.line([at(x, z) for x, z in path], _PATH, 3)
    draw.polygon([at(x, z) for x, z in _arrow(sim.pose)], _AGENT)
    return np.asarray(image)


def _arrow(pose: Pose) -> list[tuple[float, float]]:
    """Return the corners, x and z in metres, of an arrowhead that points where the agent looks."""
    ahead = pose.ahead(0.3)
    aside = -ahead[1] * 0.5, ahead[0] * 0.5
    return [
        (pose.x + ahead[0], pose.z + ahead[1]),
        (pose.x - ahead[0] * 0.6 + aside[0], pose.z - ahead[1] * 0.6 + aside[1]),
        (pose.x - ahead[0] * 0.6 - aside[0], pose.z - ahead[1] * 0.6 - aside[1]),
    ]
