"""Which settings of an environment name code that is not part of memo-lightning."""

import pytest

from memo_lightning.config import compose_config, group_options
from memo_lightning.envs.trust import foreign_code

CUSTOM = "memo_lightning.envs.custom.make_custom_env"


@pytest.mark.parametrize("name", [name for name in group_options("env") if name != "custom"])
def test_environments_of_the_package_do_not(name):
    assert foreign_code(compose_config("train", [f"env={name}"]).env) == []


def test_wrappers_and_vision_of_the_package_do_not():
    experiments = group_options("experiment")
    found = {name: foreign_code(compose_config("train", [f"experiment={name}"]).env) for name in experiments}
    assert found == {name: [] for name in experiments}
    overrides = ["env=ext_objnav", "env/vision=vit", "env.vision.weights=weights.safetensors"]
    assert foreign_code(compose_config("train", overrides).env) == []
    bound = {"_target_": "memo_lightning.envs.gymnasium.BoundActions", "low": -1, "high": 1}
    assert foreign_code({"_target_": "memo_lightning.envs.GymnasiumEnv", "wrappers": [bound]}) == []


@pytest.mark.parametrize(
    "task", ["popgym:popgym-RepeatPreviousEasy-v0", "minigrid:MiniGrid-MemoryS7-v0", "CartPole-v1"]
)
def test_registered_environments_of_the_tasks_extra_do_not(task):
    assert foreign_code({"_target_": "memo_lightning.envs.GymnasiumEnv", "id": task}) == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"_target_": "os.system", "command": "true"}, "env._target_=os.system"),
        ({"_target_": CUSTOM, "target": "os:system", "settings": {"command": "true"}}, "env.target=os:system"),
        ({"_target_": CUSTOM, "_args_": ["os:system"]}, "env._args_.0=os:system"),
        ({"_target_": "memo_lightning.envs.GymnasiumEnv", "id": "theirs:Env-v0"}, "env.id=theirs:Env-v0"),
        ({"_target_": "memo_lightning.envs.GymnasiumEnv", "wrappers": [{"_target_": "theirs.Wrapper"}]},
         "env.wrappers.0._target_=theirs.Wrapper"),
        ({"_target_": "memo_lightning.envs.GymnasiumEnv", "wrappers": ["theirs.Wrapper"]},
         "env.wrappers.0=theirs.Wrapper"),
        ({"_target_": "memo_lightning.envs.global_streams.np.load", "file": "data.npy", "allow_pickle": True},
         "env._target_=memo_lightning.envs.global_streams.np.load"),
        ({"_target_": CUSTOM, "settings": {"x": {"_target_": "memo_lightning.envs.custom.make_custom_env"}}},
         "env.settings.x._target_=memo_lightning.envs.custom.make_custom_env"),
        ({"_target_": "memo_lightning.envs.TMaze", "vision": {"_target_": "theirs.Vision"}},
         "env.vision._target_=theirs.Vision"),
        ({"_target_": "memo_lightning.envs.TMaze", "seed": {"id": {"_target_": "os.system"}}},
         "env.seed.id._target_=os.system"),
        ({"_target_": CUSTOM, "make": {"_target_": "os.system"}}, "env.make._target_=os.system"),
        ({"_target_": "memo_lightning.config.build", "node": {}}, "env._target_=memo_lightning.config.build"),
    ],
)  # fmt: skip
def test_others_are_named(settings, named):
    assert named in foreign_code(settings)
