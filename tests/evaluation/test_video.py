"""Videos of trials: a frame per step, readable by an independent reader, for every kind of environment."""

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from memo_lightning.envs.build import build_env
from memo_lightning.envs.drawing import FLOOR, LINE, Shape
from memo_lightning.envs.interface import interface_of
from memo_lightning.errors import UserError
from memo_lightning.evaluation.video import _draw_legend, record_trial, trial_frames
from memo_lightning.models import MemoTransformer
from memo_lightning.policies import MemoryPolicy, ObservationEncoder
from memo_lightning.policies.heads import ActorCriticHeads


def policy_for(env):
    torch.manual_seed(0)
    model = MemoTransformer(d_model=16, n_layers=1, n_heads=2, d_ff=32, segment_length=5, summary_length=2)
    interface = interface_of(env)
    encoder = ObservationEncoder(interface.observed(), 16)
    return MemoryPolicy(encoder, model, ActorCriticHeads(16, interface.action)).eval()


ENVIRONMENTS = {
    "room": {"_target_": "memo_lightning.envs.Darkroom", "room_size": 3, "episode_length": 6, "trial_length": 12},
    "maze": {"_target_": "memo_lightning.envs.TMaze", "trial_length": 12},
    "cart": {"_target_": "memo_lightning.envs.gymnasium.GymnasiumEnv", "id": "Pendulum-v1", "trial_length": 12},
}


@pytest.mark.parametrize("config", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_a_video_has_a_frame_for_every_step(config, tmp_path):
    env = build_env(config, 1, 0)
    path = tmp_path / "trial.mp4"
    n_frames = record_trial(env, policy_for(env), path)
    # A frame for the reset, one per step, and one more where an episode ends and another begins.
    assert n_frames == 13 + (1 if "Darkroom" in config["_target_"] else 0)
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    assert len(frames) == n_frames
    assert any((frame != frames[0]).mean() > 0.001 for frame in frames[1:])


def test_frames_show_the_environment_and_mark_where_a_summary_is_written():
    env = build_env(ENVIRONMENTS["room"], 1, 0)
    policy = policy_for(env)
    torch.manual_seed(1)
    frames = list(trial_frames(env, policy))
    written = [index for index, frame in enumerate(frames) if tuple(frame[-1, -1]) == (255, 205, 130)]
    assert written == [5, 11], "segments have 5 steps, and the sixth ends an episode, which is one frame more"
    env.reset()
    shown = unscaled(next(trial_frames(env, policy)), env.base_env.image(0).shape)
    np.testing.assert_array_equal(shown, env.base_env.image(0))


def unscaled(frame, shape):
    factor = frame.shape[1] // shape[1]
    return frame[: shape[0] * factor : factor, ::factor]


@pytest.mark.parametrize("name", ["room", "cart"])
def test_the_end_of_an_episode_is_shown_before_the_next_begins(name):
    """Compare with stepping the same trial without an image of the next episode in between."""
    changes = {"episode_length": 6, "success_return": 0.0} if name == "cart" else {}
    env = build_env({**ENVIRONMENTS[name], **changes}, 1, 0)
    policy = policy_for(env)
    torch.manual_seed(1)
    frames = list(trial_frames(env, policy))
    ends = [k for k, frame in enumerate(frames) if tuple(frame[-1, -1]) in {(170, 225, 175), (240, 185, 180)}]
    assert ends == [6, 13]
    shape = env.base_env.image(0).shape
    ended, begun = (unscaled(frames[k], shape) for k in (6, 7))
    assert (ended != begun).any()
    # The same steps in a longer episode that does not end there.
    other = build_env({**ENVIRONMENTS[name], "episode_length": 7}, 1, 0)
    torch.manual_seed(1)
    going_on = list(trial_frames(other, policy_for(other)))
    if name == "cart":
        np.testing.assert_array_equal(ended, unscaled(going_on[6], shape))


def test_a_video_can_be_cut_off():
    env = build_env(ENVIRONMENTS["maze"], 1, 0)
    assert len(list(trial_frames(env, policy_for(env), max_steps=5))) == 6


def test_an_environment_without_images_has_no_video(tmp_path, monkeypatch):
    env = build_env(ENVIRONMENTS["room"], 1, 0)
    policy = policy_for(env)
    monkeypatch.delattr("memo_lightning.envs.darkroom.Darkroom.image")
    monkeypatch.delattr("memo_lightning.envs.trial_env.TrialEnv.image")
    seen = []
    assert record_trial(env, policy, tmp_path / "trial.mp4", look=seen.append) == 0
    assert len(seen) == 13, "it is played all the same"
    assert not list(tmp_path.iterdir())


def test_an_image_that_is_none_is_refused(monkeypatch, tmp_path):
    env = build_env(ENVIRONMENTS["room"], 1, 0)
    monkeypatch.setattr("memo_lightning.envs.darkroom.Darkroom.image", lambda env, index: np.zeros((4, 4)))
    with pytest.raises(UserError, match=r"render=true: the image has shape \(4, 4\), float64; must be uint8"):
        record_trial(env, policy_for(env), tmp_path / "trial.mp4")


GRID_WORLDS = {
    "Darkroom": {"room_size": 3, "trial_length": 20},
    "DarkKeyToDoor": {"room_size": 3, "episode_length": 10, "trial_length": 20},
    "ManyRooms": {"room_size": 3, "episode_length": 10, "trial_length": 20},
    "TMaze": {"trial_length": 12},
}


@pytest.mark.parametrize("name", GRID_WORLDS)
def test_every_colour_of_a_grid_world_is_in_the_legend_and_the_legend_is_in_the_video(name):
    env = build_env({"_target_": f"memo_lightning.envs.{name}", **GRID_WORLDS[name]}, 1, 0)
    shown = {tuple(pixel) for pixel in env.base_env.image(0).reshape(-1, 3).tolist()} - {FLOOR, LINE}
    explained = {shape.colour for shape in env.base_env.legend}
    assert shown == explained
    frame = next(trial_frames(env, policy_for(env)))
    height = env.base_env.image(0).shape[0] * (frame.shape[1] // env.base_env.image(0).shape[1])
    below = {tuple(pixel) for pixel in frame[height:].reshape(-1, 3).tolist()}
    assert explained <= below
    assert not frame.shape[0] % 2


def test_a_legend_too_wide_for_one_line_has_several():
    shapes = [Shape("something with a long name", (10 * n, 0, 0)) for n in range(6)]
    strip = np.asarray(_draw_legend(shapes, 360))
    assert strip.shape == (6 * 24, 360, 3)
    assert {(10 * n, 0, 0) for n in range(6)} <= {tuple(pixel) for pixel in strip.reshape(-1, 3).tolist()}
