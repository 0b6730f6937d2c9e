"""A video of a trial: images of the environment, step by step, with a legend and a caption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from memo_lightning.envs.drawing import FLOOR, Shape
from memo_lightning.envs.reports import SUCCESS, SUCCESS_REPORTED
from memo_lightning.evaluation.playback import Moment, play_trial
from memo_lightning.policies import MemoryPolicy

_SIDE = 360  # minimum width in pixels, to which images are enlarged by whole factors
_CAPTION, _LEGEND = 44, 24  # height in pixels; a legend may have several such lines
_INK, _PAPER, _WRITTEN = (30, 30, 34), (250, 250, 248), (255, 205, 130)
_SUCCESS, _FAILURE = (170, 225, 175), (240, 185, 180)


def record_trial(
    env: EnvBase,
    policy: MemoryPolicy,
    path: Path,
    fps: int = 10,
    max_steps: int | None = None,
    look: Callable[[Moment], object] = lambda _: None,
) -> int:
    """Write a video of one trial to ``path``, as an mp4 (H.264).

    The caption states the step, the episode, the reward so far and the number of summaries written. Its background is
    coloured at steps that write a summary, and green or red where an episode ends with or without success, which the
    caption then states too. Above it, a legend explains the shapes that the environment draws.

    Args:
        env: a single environment; its innermost one has ``image(index) -> uint8 [H, W, 3]`` and may have ``watch()``,
            ``last_image(index)`` and ``legend``, as :class:`~memo_lightning.envs.trial_env.TrialEnv` has.
        policy: the policy that acts; TorchRL's exploration type decides whether it samples.
        path: the file to write.
        fps: steps per second.
        max_steps: steps after which the video ends, if the trial has not; None for the whole trial.
        look: called with every moment of the trial.

    Returns:
        The number of frames; 0, and no file, if the environment cannot be drawn.
    """
    frames = trial_frames(env, policy, max_steps, look)
    first = next(frames, None)
    if first is None:
        return 0
    size = first.shape[1], first.shape[0]
    # Blocks of 2, because the codec halves the resolution of colours.
    video = imageio_ffmpeg.write_frames(str(path), size, fps=fps, codec="libx264", macro_block_size=2)
    video.send(None)
    n_frames = 0
    for frame in chain([first], frames):
        video.send(np.ascontiguousarray(frame))
        n_frames += 1
    video.close()
    return n_frames


def trial_frames(
    env: EnvBase,
    policy: MemoryPolicy,
    max_steps: int | None = None,
    look: Callable[[Moment], object] = lambda _: None,
) -> Iterator[NDArray[np.uint8]]:
    """Yield captioned images of one trial: of the reset, of every step, and of the start of every episode.

    The image of a step that ends an episode shows how it ended, if the environment keeps that. ``look`` is called with
    every moment before its images are yielded.
    """
    segment_length: int = getattr(policy.sequence_model, "segment_length", 0)  # 0: it writes no summaries
    legend: Sequence[Shape] = getattr(env.base_env, "legend", ())
    number, episode, reward = 0, 1, 0.0
    for moment in play_trial(env, policy, max_steps):
        look(moment)
        step, lines, colour = moment.step, ["step 0 | episode 1", "reward 0"], _PAPER
        if step is not None:
            number, reward = number + 1, reward + step.reward
            memory = ""
            if segment_length and number % segment_length == 0:
                memory, colour = f" | summary {number // segment_length} written", _WRITTEN
            elif segment_length:
                memory = f" | summaries {number // segment_length}"
            lines = [f"step {number} | episode {episode}", f"reward {reward:g}{memory}"]
            if moment.ending is not None:
                outcome, outcome_colour = _outcome(step.after)
                yield _captioned(moment.ending, legend, [f"{lines[0]} ends{outcome}", lines[1]], outcome_colour)
            if step.ends_episode and not step.ends_trial:
                episode += 1
                lines[0] = f"step {number} | episode {episode}"
        if moment.image is not None:
            yield _captioned(moment.image, legend, lines, colour)


def _outcome(after: TensorDictBase) -> tuple[str, tuple[int, int, int]]:
    """Return in words and as a colour whether an episode was a success, if the environment reports it."""
    said = SUCCESS in after.keys() and bool(after.get(SUCCESS_REPORTED, torch.ones(1)))
    if not said:
        return "", _PAPER
    return (": success", _SUCCESS) if bool(after[SUCCESS]) else (": no success", _FAILURE)


def _captioned(
    image: NDArray[np.uint8], legend: Sequence[Shape], lines: list[str], colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    factor = max(1, -(-_SIDE // image.shape[1]))
    image = image.repeat(factor, 0).repeat(factor, 1)
    height, width = image.shape[0] + image.shape[0] % 2, image.shape[1] + image.shape[1] % 2
    explained = _draw_legend(legend, width) if legend else None
    caption_top = height + (explained.height if explained else 0)
    canvas = Image.new("RGB", (width, caption_top + _CAPTION), colour)
    canvas.paste(Image.fromarray(image))
    if explained:
        canvas.paste(explained, (0, height))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        draw.text((8, caption_top + 4 + 19 * number), line, _INK, ImageFont.load_default(15))
    return np.asarray(canvas)


def _draw_legend(legend: Sequence[Shape], width: int) -> Image.Image:
    """Return a strip ``width`` pixels wide: each shape with its meaning, in as many lines as needed."""
    font, side, gap = ImageFont.load_default(13), 14, 6
    places, left, line = [], 8, 0
    for shape in legend:
        needed = side + gap + round(font.getlength(shape.meaning))
        if left > 8 and left + needed > width - 8:
            left, line = 8, line + 1
        places.append((shape, left, line * _LEGEND + (_LEGEND - side) // 2))
        left += needed + 3 * gap
    strip = Image.new("RGB", (width, (line + 1) * _LEGEND), FLOOR)
    draw = ImageDraw.Draw(strip)
    for shape, x, y in places:
        box = (x, y, x + side, y + side)
        if shape.size < 1:
            draw.ellipse(box, shape.colour)
        else:
            draw.rectangle(box, shape.colour)
        draw.text((x + side + gap, y - 2), shape.meaning, _INK, font)
    return strip
