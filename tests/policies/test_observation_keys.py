"""Image layouts: which follow from an observation's shape, and which need a setting."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torchrl.data import Bounded, Composite
from torchrl.envs import PermuteTransform

from memo_lightning.errors import UserError
from memo_lightning.policies.action import Action
from memo_lightning.policies.observation_keys import ObservationKey, keys_of_spec, observation_keys
from memo_lightning.policies.spaces import space_from_plain, space_to_plain
from memo_lightning.policies.spec import Interface


def image_space(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


def key_of(shape, layout=None):
    (key,) = observation_keys(image_space(*shape), images={"observation": layout} if layout else {})
    return key


@pytest.mark.parametrize(
    ("shape", "stored", "description"),
    [
        ((84, 84), (84, 84, 1), "image 84 x 84, 1 channel (channels_last)"),
        ((84, 96, 3), (84, 96, 3), "image 84 x 96, 3 channels (channels_last)"),
        ((7, 7, 3), (7, 7, 3), "image 7 x 7, 3 channels (channels_last)"),
        ((7, 7, 20), (7, 7, 20), "image 7 x 7, 20 channels (channels_last)"),
        ((4, 4, 8), (4, 4, 8), "image 4 x 4, 8 channels (channels_last)"),
        ((3, 84, 96), (84, 96, 3), "image 84 x 96, 3 channels (channels_first)"),
        ((12, 84, 96), (84, 96, 12), "image 84 x 96, 12 channels (channels_first)"),
        ((4, 84, 96, 3), (84, 96, 12), "image 84 x 96, 4 frames of 3 channels (channels_last)"),
        ((4, 3, 84, 96), (84, 96, 12), "image 84 x 96, 4 frames of 3 channels (channels_first)"),
        ((4, 84, 96, 1), (84, 96, 4), "image 84 x 96, 4 frames of 1 channel (channels_last)"),
    ],
)
def test_a_shape_that_can_only_be_one_image_decides(shape, stored, description):
    key = key_of(shape)
    assert key.shape == stored
    assert key.description == description


def test_numbers_are_stored_in_one_dtype_whichever_they_come_in():
    for value in ([0.5, 1.0], np.array([0.5, 1.0]), np.array([0.5, 1.0], np.float16)):
        stored = ObservationKey("x", (), spaces.Box(-1, 1, (2,))).read(value)
        assert stored.dtype == np.float32
        assert stored.tolist() == [0.5, 1.0]
    discrete = ObservationKey("x", (), spaces.Discrete(3, start=1))
    for value in (2, 2.0, np.uint8(2)):
        assert (discrete.read(value).dtype, discrete.read(value).item()) == (np.int64, 1)
    with pytest.raises(UserError, match=r"observation 'x' is 1\.5; its space says Discrete"):
        discrete.read(1.5)


@pytest.mark.parametrize("shape", [(12, 84, 96), (3, 84, 96)])
def test_channels_that_come_first_are_moved_pixel_by_pixel(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    stored = key_of(shape).read(image)
    assert all((stored[:, :, channel] == image[channel]).all() for channel in range(shape[0]))


@pytest.mark.parametrize(("shape", "axis"), [((4, 84, 96, 3), -1), ((4, 3, 84, 96), 1)])
def test_the_channels_of_stacked_frames_follow_one_another(shape, axis):
    frames = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    stored = key_of(shape).read(frames, (2,))
    assert stored.shape == (2, 84, 96, 12)
    for frame in range(4):
        for channel in range(3):
            expected = frames[1, frame].take(channel, axis=-1 if axis == -1 else 0)
            np.testing.assert_array_equal(stored[1, :, :, 3 * frame + channel], expected)


@pytest.mark.parametrize("shape", [(4, 7, 6), (4, 5, 5), (3, 3, 3), (84, 84, 84), (2, 4, 7, 6), (84, 84, 3, 4)])
def test_a_shape_that_could_be_several_images_is_refused_with_what_to_set(shape):
    with pytest.raises(UserError, match=r"env\.images\.observation=channels_last, or to channels_first or vector") as e:
        key_of(shape)
    assert str(shape) in str(e.value)
    assert len(str(e.value).splitlines()) == 1


def test_a_setting_decides_where_the_shape_does_not():
    image = np.arange(4 * 7 * 6, dtype=np.uint8).reshape(4, 7, 6)
    np.testing.assert_array_equal(key_of((4, 7, 6), "channels_last").read(image), image)
    np.testing.assert_array_equal(key_of((4, 7, 6), "channels_first").read(image), image.transpose(1, 2, 0))
    vector = key_of((4, 7, 6), "vector")
    np.testing.assert_array_equal(vector.read(image), image.reshape(-1))
    assert vector.description == "vector [168], flattened from [4, 7, 6]"
    assert key_of((2, 3, 4, 5, 6), "vector").shape == (720,)


def test_settings_that_do_not_fit_are_refused():
    space = spaces.Dict(board=image_space(4, 7, 6), speed=spaces.Box(0, 1, (3,), np.float32))
    with pytest.raises(UserError, match=r"env.images=.*of observation keys, board, speed"):
        observation_keys(space, images={"bord": "vector"})
    with pytest.raises(UserError, match=r"env.images.board='rgb': must be one of channels_last, channels_first"):
        observation_keys(space, images={"board": "rgb"})
    with pytest.raises(UserError, match=r"env.images.speed='channels_last': must be used for uint8 observations"):
        observation_keys(space, images={"board": "vector", "speed": "channels_last"})
    assert [key.name for key in observation_keys(space, ignore=["board"])] == ["speed"], "what is ignored needs none"


def test_a_checkpoint_keeps_the_layout():
    space = image_space(4, 7, 6)
    keys = observation_keys(space, images={"observation": "channels_first"})
    interface = Interface(space, keys, Action(spaces.Discrete(2)))
    again = Interface.from_plain(interface.as_plain())
    assert again.keys == keys
    plain = interface.as_plain()
    plain["keys"] = [["observation", [], space_to_plain(image_space(3, 84, 84))]]  # from a version without layouts
    assert Interface.from_plain(plain).keys[0].layout == "channels_first"
    assert space_from_plain(space_to_plain(space)) == space


def test_images_of_torchrl_environments_that_come_channels_first_are_refused():
    def spec(*shape):
        return Composite(pixels=Bounded(0, 255, (2, *shape), dtype=torch.uint8), shape=(2,))

    with pytest.raises(UserError, match=r"PermuteTransform\(\(-2, -1, -3\), in_keys=\['pixels'\]\)"):
        keys_of_spec(spec(3, 84, 96), 1)
    permuted = PermuteTransform((-2, -1, -3), in_keys=["pixels"]).transform_observation_spec(spec(3, 84, 96))
    assert keys_of_spec(permuted, 1)[0].shape == (84, 96, 3), "the advice works"
    assert keys_of_spec(spec(4, 7, 6), 1)[0].shape == (4, 7, 6)


def test_numbers_that_are_no_image_are_vectors():
    key = ObservationKey("planes", (), spaces.Box(0, 1, (4, 84, 84), np.float32))
    assert not key.is_image
    assert key.description == "vector [28224], flattened from [4, 84, 84]"
