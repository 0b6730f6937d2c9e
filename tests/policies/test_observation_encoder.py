"""The encoder for any observation equals the linear encoder on vectors and a naive sum on everything else."""

from functools import partial

import gymnasium
import pytest
import torch
from tensordict import TensorDict
from torch.nn.functional import one_hot
from torchrl.data import Bounded, Categorical, Composite, MultiCategorical, Unbounded

from memo_lightning.envs.gymnasium import GymnasiumEnv
from memo_lightning.envs.interface import interface_of
from memo_lightning.errors import UserError
from memo_lightning.policies import ObservationEncoder, VectorEncoder


def observed(n, previous_step=None, **specs):
    """Return the observation specs of n environments."""
    own = {} if previous_step is None else {"previous_step": previous_step}
    return Composite(observation=Composite(**specs, shape=(n,)), **own, shape=(n,))


SPEC = observed(
    4,
    vector=Unbounded((4, 3)),
    angle=Bounded(torch.tensor([[-2.0, 0.0]] * 4), torch.tensor([[2.0, 10.0]] * 4), (4, 2)),
    flag=Unbounded((4, 1), dtype=torch.bool),
    choice=Categorical(5, shape=(4,)),
    choices=MultiCategorical([2, 3], shape=(4, 2)),
    image=Bounded(0, 255, (4, 20, 14, 3), dtype=torch.uint8),
    tiny=Bounded(0, 255, (4, 3, 3, 1), dtype=torch.uint8),
    previous_step=Unbounded((4, 2)),
)


def test_it_is_the_linear_encoder_on_a_grid_world(make_env):
    spec = interface_of(make_env(2, 0)).observed()
    td = make_env(2, 0).reset()
    torch.manual_seed(3)
    expected = VectorEncoder(spec, 16, ["observation", "previous_step"])
    torch.manual_seed(3)
    encoder = ObservationEncoder(spec, 16)
    assert encoder.in_keys == expected.in_keys == [("observation", "observation"), "previous_step"]
    assert torch.equal(encoder(td), expected(td))
    assert encoder.state_dict().keys() == expected.state_dict().keys()


def test_keys_are_encoded_each_in_its_way_and_added_up():
    torch.manual_seed(0)
    encoder = ObservationEncoder(SPEC, 8)
    td = SPEC.rand()
    seen = td["observation"]
    part_of = dict(zip([name for _, name in encoder._encoded], encoder.parts, strict=True))
    assert sorted(part_of) == ["choice", "choices", "image", "tiny"]
    weight, bias = encoder.projection.weight, encoder.projection.bias
    angle = torch.stack([seen["angle"][:, 0] / 2, seen["angle"][:, 1] / 5 - 1], -1)
    vectors = torch.cat([angle, seen["flag"].float(), seen["vector"], td["previous_step"]], -1)
    tables = [part_of[name].embedding.weight for name in ("choice", "choices")]
    choices = torch.cat([one_hot(seen["choices"][:, 0], 2), one_hot(seen["choices"][:, 1], 3)], -1).float()
    expected = vectors @ weight.T + bias + one_hot(seen["choice"], 5).float() @ tables[0] + choices @ tables[1]
    for name in ("image", "tiny"):
        pixels = seen[name].permute(0, 3, 1, 2).float() / 255
        expected = expected + part_of[name].layers(pixels)
    torch.testing.assert_close(encoder(td), expected)


def test_sequences_and_steps_are_encoded_alike_and_gradients_reach_everything():
    encoder = ObservationEncoder(SPEC, 8)
    sequences = torch.stack([SPEC.rand() for _ in range(5)], 1)
    whole = encoder(sequences)
    assert whole.shape == (4, 5, 8)
    torch.testing.assert_close(whole[:, 2], encoder(sequences[:, 2]))
    whole.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())


def test_images_of_small_numbers_are_told_apart():
    """Symbolic grids contain numbers up to ten, while photographs fill the whole range."""
    torch.manual_seed(0)
    encoder = ObservationEncoder(observed(2, image=Bounded(0, 255, (2, 7, 7, 3), dtype=torch.uint8)), 16)
    images = torch.randint(0, 3, (2, 7, 7, 3), dtype=torch.uint8)
    first, second = encoder(TensorDict({"observation": {"image": images}}, [2]))
    assert (first - second).abs().mean() > 0.1 * first.abs().mean()


def test_chosen_keys_only_and_mistakes_are_named():
    assert ObservationEncoder(SPEC, 8, ["vector"]).in_keys == [("observation", "vector")]
    with pytest.raises(UserError, match="the environment has no 'sight'; must be among angle, choice"):
        ObservationEncoder(SPEC, 8, ["sight"])
    with pytest.raises(UserError, match=r"'volume' has shape .* must be a vector, a discrete value, or an image"):
        ObservationEncoder(observed(2, volume=Unbounded((2, 3, 3, 3, 3))), 8)
    with pytest.raises(UserError, match="must name observation keys, but the environment has none"):
        ObservationEncoder(observed(2), 8)


def test_what_an_environment_reports_is_not_observed(make_env):
    env = GymnasiumEnv(
        n_envs=1, make=partial(gymnasium.make, "CartPole-v1"), measures=("spl", "effort"), trial_length=9
    )
    for spec in (interface_of(env).observed(), interface_of(make_env(2, 0)).observed()):
        assert sorted(spec.keys()) == ["observation", "previous_step"]
        assert list(spec["observation"].keys()) == ["observation"]


def bytes_kept_for_the_backward_pass(encode):
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encoded = encode()
    return encoded, kept


def test_sequences_encoded_in_parts_have_the_same_gradients_and_keep_less():
    torch.manual_seed(0)
    encoder, sequences = ObservationEncoder(SPEC, 8), torch.stack([SPEC.rand() for _ in range(10)], dim=1)
    results = []
    for checkpoint_steps in (None, 3):
        encoder.checkpoint_steps = checkpoint_steps
        encoder.zero_grad()
        encoded, kept = bytes_kept_for_the_backward_pass(lambda: encoder.encode_sequences(encoder, sequences))
        encoded.square().sum().backward()
        results.append((encoded.detach(), kept, [weight.grad.clone() for weight in encoder.parameters()]))
    (whole, kept_whole, gradients), (parts, kept_parts, gradients_of_parts) = results
    torch.testing.assert_close(parts, whole)
    for ours, expected in zip(gradients_of_parts, gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert kept_parts < kept_whole / 10


@pytest.mark.parametrize("checkpoint_steps", [None, 4])
def test_earlier_steps_may_be_encoded_without_gradient(checkpoint_steps):
    torch.manual_seed(0)
    encoder, sequences = ObservationEncoder(SPEC, 8), torch.stack([SPEC.rand() for _ in range(10)], dim=1)
    encoder.checkpoint_steps = checkpoint_steps
    encoded = encoder.encode_sequences(encoder, sequences, gradient_from=7)
    torch.testing.assert_close(encoded, encoder(sequences))
    weights = list(encoder.parameters())
    gradients = torch.autograd.grad(encoded.square().sum(), weights)
    expected = torch.autograd.grad(encoder(sequences[:, 7:]).square().sum(), weights)
    for ours, others in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, others, rtol=1e-4, atol=1e-4)


def test_parts_of_no_steps_are_refused():
    with pytest.raises(UserError, match=r"encoder\.checkpoint_steps=0: must be at least 1, or null"):
        ObservationEncoder(SPEC, 8, checkpoint_steps=0)
