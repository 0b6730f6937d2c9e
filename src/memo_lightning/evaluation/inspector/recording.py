"""The recording of a trial for the inspector, made step by step while the trial is played."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import nn
from torchrl.envs import EnvBase

from memo_lightning.envs.reports import SUCCESS, SUCCESS_REPORTED
from memo_lightning.evaluation.inspector.frames import FrameAlbum
from memo_lightning.evaluation.inspector.packing import AttentionLog, pack
from memo_lightning.evaluation.playback import Moment, PlayedStep
from memo_lightning.models.attention_recorder import AttentionRecorder, recorded_attention
from memo_lightning.policies import Interface, MemoryPolicy
from memo_lightning.policies.encoders import OBSERVATION
from memo_lightning.policies.observation_keys import ObservationKey

_MAX_NUMBERS = 64  # shown per observation key
_OBSERVATION_BYTES = 400_000  # for all steps, before compression
_PAGE_BYTES = 4_800_000  # intended size; for a long trial of photographs, the images are made smaller
_MAX_ACTIONS = 64  # whose probabilities are shown


@contextmanager
def recorded_trial(env: EnvBase, policy: MemoryPolicy, interface: Interface) -> Iterator[TrialRecording]:
    """Record the trial that is played within the context; pass each of its moments to ``look``.

    Args:
        env: a single environment; its innermost one may have ``action_names``.
        policy: the policy that acts.
        interface: the policy's observations and actions.
    """
    with recorded_attention(policy.sequence_model) as recorder:
        recording = TrialRecording(env, policy, interface, recorder)
        hook = policy.heads.register_forward_pre_hook(recording.before_heads)
        try:
            yield recording
        finally:
            hook.remove()


class TrialRecording:
    """Observations, actions, rewards, values and attention in every step of a trial; see :func:`recorded_trial`."""

    def __init__(self, env: EnvBase, policy: MemoryPolicy, interface: Interface, recorder: AttentionRecorder) -> None:
        self._policy, self._action, self._recorder = policy, interface.action, recorder
        self._keys, self._numbers = interface.keys, dict[str, list[NDArray]]()
        names = getattr(env.base_env, "action_names", ())
        self._legend = [
            [shape.meaning, "#{:02x}{:02x}{:02x}".format(*shape.colour), shape.size < 1]
            for shape in getattr(env.base_env, "legend", ())
        ]
        self._names = _names_of(interface.action.space, names)
        self._album, self._shown_key = FrameAlbum(), _image_key(interface.keys)
        self._attention = AttentionLog(recorder.rows) if recorder.rows else None
        self._probabilities: list[NDArray] = []
        self._most_likely: list[NDArray] = []
        self._chosen: list[NDArray] = []
        self._rewards: list[float] = []
        self._values: list[float] = []
        self._starts: list[int] = []
        self._episodes: list[list[Any]] = []
        self._episode_start, self._return = 0, 0.0
        self._image: NDArray[np.uint8] | None = None
        self._is_drawn = False

    @property
    def n_steps(self) -> int:
        """Number of steps so far."""
        return len(self._rewards)

    def before_heads(self, module: nn.Module, arguments: tuple[TensorDict, ...]) -> None:
        """Record the distribution from which the heads are about to draw the action; a forward pre-hook of torch."""
        with torch.no_grad():
            distribution = self._policy.actor.get_dist(arguments[0].copy())
        if self._action.n_values:
            self._probabilities.append(distribution.probs[0].float().cpu().numpy())
        else:
            self._most_likely.append(distribution.deterministic_sample[0].float().cpu().numpy())

    def look(self, moment: Moment) -> None:
        """Record the next moment of the trial."""
        if moment.step is not None:
            self._add(moment.step)
        self._image = moment.image  # in view of which the next action is chosen

    def _add(self, step: PlayedStep) -> None:
        number = self.n_steps
        observed = step.inputs[OBSERVATION]
        for key in self._keys:
            if not key.is_image:
                values = observed[key.name][0].reshape(-1)[:_MAX_NUMBERS].float().cpu().numpy()
                self._numbers.setdefault(key.name, []).append(values)
        image = self._image
        if image is None and self._shown_key is not None:
            image = _as_rgb(observed[self._shown_key.name][0].cpu().numpy())
        if image is not None:
            self._album.add(image)
        self._is_drawn |= self._image is not None
        if self._attention is not None:
            if self._recorder.latest is None:
                self._attention = None
            else:
                self._attention.add(self._recorder.latest)
        if bool(self._policy.memory_starts(step.inputs)[0]):
            self._starts.append(number)
        self._chosen.append(step.taken["action"][0].reshape(-1).float().cpu().numpy())
        if "state_value" in step.taken.keys():
            self._values.append(float(step.taken["state_value"]))
        self._rewards.append(step.reward)
        self._return += step.reward
        if step.ends_episode:
            self._end_episode(step)

    def _end_episode(self, step: PlayedStep) -> None:
        """Record the first and last step of the episode, its return, and its success if reported."""
        reported = bool(step.after.get(SUCCESS_REPORTED, torch.ones(1)))
        says = SUCCESS in step.after.keys() and reported
        success = bool(step.after[SUCCESS]) if says else None
        self._episodes.append([self._episode_start, self.n_steps - 1, _finite(self._return), success, True])
        self._episode_start, self._return = self.n_steps, 0.0

    def data(self) -> dict[str, Any]:
        """Return what the page reads about the trial, as plain values for JSON."""
        episodes = list(self._episodes)
        if self._episode_start < self.n_steps:
            episodes.append([self._episode_start, self.n_steps - 1, _finite(self._return), None, False])
        model = self._policy.sequence_model
        segment_length = model.segment_length
        data = {
            "n_steps": self.n_steps,
            "segment_length": segment_length,
            "summary_length": getattr(model, "summary_length", None) if segment_length else None,
            "memory_starts": self._starts,
            "rewards": pack(self._rewards, "<f4"),
            "values": pack(self._values, "<f4") if self._values else None,
            "actions": self._actions(),
            "episodes": episodes,
            "is_drawn": self._is_drawn,
            "legend": self._legend,
            "observations": self._observations(),
            "attention": self._attention.packed() if self._attention is not None else None,
        }
        room = (_PAGE_BYTES - len(json.dumps(data))) * 3 // 4  # before base64
        return {**data, "frames": self._album.packed(room) if len(self._album) else None}

    def _actions(self) -> dict[str, Any]:
        """Return names, chosen actions, and probabilities or, for continuous actions, the most likely actions."""
        if not self._action.n_values:
            return {
                "kind": "continuous",
                "names": self._names,
                "chosen": pack(self._chosen, "<f4"),
                "most_likely": pack(self._most_likely, "<f4"),
            }
        sizes = self._action.n_values
        probabilities = np.stack(self._probabilities)
        shown = probabilities[:, :_MAX_ACTIONS]
        return {
            "kind": "discrete",
            "names": self._names,
            "sizes": sizes,
            "chosen": pack(self._chosen, "<u2"),
            "n_shown": shown.shape[1],
            "probabilities": pack(np.rint(shown * 65535), "<u2"),
        }

    def _observations(self) -> list[dict[str, Any]]:
        """Return the observed numbers; of long vectors only the first, as many as there is room for."""
        total = sum(len(steps[0]) for steps in self._numbers.values())
        room = _OBSERVATION_BYTES // 4 // max(1, self.n_steps)
        scale = min(1.0, room / max(1, total))
        packed = []
        for key in self._keys:
            if key.name not in self._numbers:
                continue
            steps = np.stack(self._numbers[key.name])
            kept = max(1, int(steps.shape[1] * scale))
            size = int(np.prod(key.shape, dtype=int)) if key.shape else 1
            packed.append({"name": key.name, "size": size, "shown": kept, "values": pack(steps[:, :kept], "<f4")})
        return packed


def _names_of(space: spaces.Space, given: Sequence[str]) -> list[str]:
    """Return a name for every value of a discrete action, one component after another, or for every number."""
    if isinstance(space, spaces.Discrete):
        numbers = range(int(space.start), int(space.start + space.n))
        return list(given) if len(given) == space.n else [f"action {number}" for number in numbers]
    size = int(np.prod(space.shape or (1,)))
    if isinstance(space, spaces.Box):
        return list(given) if len(given) == size else [f"action[{number}]" for number in range(size)]
    n_values = space.nvec.reshape(-1).tolist() if isinstance(space, spaces.MultiDiscrete) else [2] * size
    return [f"[{part}] = {value}" for part, n in enumerate(n_values) for value in range(n)]


def _finite(number: float) -> float | None:
    """Return the rounded number, or None if it is not finite, as JSON requires."""
    return round(number, 6) if np.isfinite(number) else None


def _image_key(keys: Sequence[ObservationKey]) -> ObservationKey | None:
    """Return the first observation key that is an image, if there is one."""
    return next((key for key in keys if key.is_image), None)


def _as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an observed image ``[H, W, C]`` for display: the newest frame, in colour or grey."""
    channels = image.shape[2]
    shown = image[..., -3:] if channels % 3 == 0 else image[..., -1:]
    return np.ascontiguousarray(np.broadcast_to(shown, (*image.shape[:2], 3)))
