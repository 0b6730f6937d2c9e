"""The names of runs."""

import pytest

from memo_lightning.config import compose_config, config_dir
from memo_lightning.models import GRU
from memo_lightning.tracking import environment_name, memory_name

BASELINES = sorted(path.stem for path in (config_dir() / "baseline").glob("*.yaml"))


class Mine(GRU):
    pass


@pytest.mark.parametrize("option", [name for name in BASELINES if name not in ("none", "custom")])
def test_a_memory_is_called_by_the_option_that_chose_it(option):
    assert memory_name(compose_config("train", [f"baseline={option}"])) == option


def test_memo_is_called_memo_as_it_is_and_in_a_checkpoint():
    config = compose_config("train", ["model.d_model=32"])
    assert memory_name(config) == "memo"
    plain = {"choices": {"baseline": "none", "model": "memo"}, "model": {"_target_": config.model["_target_"]}}
    assert memory_name(plain) == "memo"


def test_an_option_of_ones_own_stands_for_what_it_names():
    config = {"choices": {"baseline": "none", "model": "mine"}, "model": {"_target_": f"{__name__}.Mine"}}
    assert memory_name(config) == "mine"
    assert memory_name({**config, "choices": {"baseline": "gru", "model": "mine"}}) == "gru"


def test_a_class_without_an_option_is_called_by_its_name():
    custom = compose_config("train", ["baseline=custom", f"baseline.target={__name__}.Mine"])
    assert memory_name(custom) == "Mine"
    in_place_of_memo = compose_config("train", [f"model._target_={__name__}.Mine"])
    assert memory_name(in_place_of_memo) == "Mine"


def test_an_environment_is_called_by_what_a_general_option_stands_for():
    names = {
        "env=darkroom": "darkroom",
        "env=gymnasium env.id=CartPole-v1": "CartPole-v1",
        "env=custom env.target=my.module:make_env": "my.module:make_env",
        "env=gymnasium": "gymnasium",
    }
    for overrides, name in names.items():
        assert environment_name(compose_config("train", overrides.split())) == name
