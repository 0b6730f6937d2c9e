"""The encoder for any observation: equal to the linear one on vectors, to a naive sum on everything else."""

from functools import partial

import gymnasium
import pytest
import torch
from torch.nn.functional import one_hot
from torchrl.data import Bounded, Categorical, Composite, MultiCategorical, Unbounded

from memo_lightning.envs.gymnasium import GymnasiumEnv
from memo_lightning.envs.reports import observed_spec
from memo_lightning.errors import UserError
from memo_lightning.policies import EntryEncoder, VectorEncoder

SPEC = Composite(
    vector=Unbounded((4, 3)),
    angle=Bounded(torch.tensor([[-2.0, 0.0]] * 4), torch.tensor([[2.0, 10.0]] * 4), (4, 2)),
    flag=Unbounded((4, 1), dtype=torch.bool),
    choice=Categorical(5, shape=(4,)),
    choices=MultiCategorical([2, 3], shape=(4, 2)),
    picture=Bounded(0, 255, (4, 20, 14, 3), dtype=torch.uint8),
    tiny=Bounded(0, 255, (4, 3, 3, 1), dtype=torch.uint8),
    previous_step=Unbounded((4, 2)),
    shape=(4,),
)


def test_it_is_the_linear_encoder_on_a_grid_world(make_env):
    spec = observed_spec(make_env(2, 0))
    td = make_env(2, 0).reset()
    torch.manual_seed(3)
    expected = VectorEncoder(spec, 16, ["observation", "previous_step"])
    torch.manual_seed(3)
    encoder = EntryEncoder(spec, 16)
    assert encoder.in_keys == expected.in_keys
    assert torch.equal(encoder(td), expected(td))
    assert encoder.state_dict().keys() == expected.state_dict().keys()


def test_entries_are_encoded_each_in_its_way_and_added_up():
    torch.manual_seed(0)
    encoder = EntryEncoder(SPEC, 8)
    td = SPEC.rand()
    weight, bias = encoder.projection.weight, encoder.projection.bias
    angle = torch.stack([td["angle"][:, 0] / 2, td["angle"][:, 1] / 5 - 1], -1)
    vectors = torch.cat([angle, td["flag"].float(), td["vector"], td["previous_step"]], -1)
    tables = [encoder.tables[name].embedding.weight for name in ("choice", "choices")]
    choices = torch.cat([one_hot(td["choices"][:, 0], 2), one_hot(td["choices"][:, 1], 3)], -1).float()
    expected = vectors @ weight.T + bias + one_hot(td["choice"], 5).float() @ tables[0] + choices @ tables[1]
    for name in ("picture", "tiny"):
        pixels = td[name].permute(0, 3, 1, 2).float() / 255
        expected = expected + encoder.images[name].layers(pixels)
    torch.testing.assert_close(encoder(td), expected)


def test_rows_and_steps_are_encoded_alike_and_gradients_reach_everything():
    encoder = EntryEncoder(SPEC, 8)
    rows = torch.stack([SPEC.rand() for _ in range(5)], 1)
    whole = encoder(rows)
    assert whole.shape == (4, 5, 8)
    torch.testing.assert_close(whole[:, 2], encoder(rows[:, 2]))
    whole.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())


def test_pictures_of_small_numbers_are_told_apart():
    """Symbolic grids hold numbers up to ten where photographs fill the range."""
    torch.manual_seed(0)
    encoder = EntryEncoder(Composite(image=Bounded(0, 255, (2, 7, 7, 3), dtype=torch.uint8), shape=(2,)), 16)
    images = torch.randint(0, 3, (2, 7, 7, 3), dtype=torch.uint8)
    first, second = encoder(Composite(shape=(2,)).zero().set("image", images))
    assert (first - second).abs().mean() > 0.1 * first.abs().mean()


def test_chosen_entries_only_and_mistakes_are_named():
    assert EntryEncoder(SPEC, 8, ["vector"]).in_keys == ["vector"]
    with pytest.raises(UserError, match="the environment has no 'sight'; must be among angle, choice"):
        EntryEncoder(SPEC, 8, ["sight"])
    with pytest.raises(UserError, match=r"'volume' has shape .* must be a vector, a choice, or a picture"):
        EntryEncoder(Composite(volume=Unbounded((2, 3, 3, 3, 3)), shape=(2,)), 8)
    with pytest.raises(UserError, match="must name some of its entries, and it has none"):
        EntryEncoder(Composite(shape=(2,)), 8)


def test_what_an_environment_reports_is_not_observed(make_env):
    env = GymnasiumEnv(
        n_envs=1, make=partial(gymnasium.make, "CartPole-v1"), measures=("spl", "effort"), trial_length=9
    )
    assert list(observed_spec(env).keys()) == ["observation"]
    assert sorted(observed_spec(make_env(2, 0)).keys()) == ["observation", "previous_step"]
