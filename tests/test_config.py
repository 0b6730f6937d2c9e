"""Composing the configuration: every mistake gives a one-line error that names the closest valid option."""

import re

import pytest
from omegaconf import OmegaConf

from memo_lightning.config import _INTEGER_OR_NULL, _NUMBER_OR_NULL, apply_overrides, build, compose_config, config_dir
from memo_lightning.envs.build import build_env
from memo_lightning.errors import UserError


def test_groups_and_values_are_overridden():
    config = compose_config("train", ["env=dark_key_to_door_9x9", "seed=3", "model.d_model=32", "algorithm.gamma=1"])
    assert (config.env.room_size, config.seed, config.model.d_model, config.algorithm.gamma) == (9, 3, 32, 1)
    assert config.collector.rollout_length == config.env.trial_length == 500
    assert config.choices.env == "dark_key_to_door_9x9"
    assert "hydra" not in config


def test_a_preset_yields_to_the_command_line():
    assert compose_config("train", ["debug=smoke"]).total_frames == 6400
    assert compose_config("train", ["debug=smoke", "total_frames=100"]).total_frames == 100


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.gama=0.9", "unknown override 'algorithm.gama': did you mean algorithm.gamma"),
        ("gamma=0.9", "unknown override 'gamma': did you mean algorithm.gamma?"),
        ("env=dark_key_to_dor", "env=dark_key_to_dor: no such option; did you mean dark_key_to_door"),
        ("seed=abc", "seed='abc': must be an integer"),
        ("seed=1.5", "seed=1.5: must be an integer"),
        ("env.lit=3", "env.lit=3: must be true or false"),
        ("algorithm.gamma=high", "algorithm.gamma='high': must be a number"),
        ("algorithm.gamma=[0.9,0.99]", "algorithm.gamma=[0.9, 0.99]: must be a number"),
        ("model.segment_jitter=wide", "model.segment_jitter='wide': must be a number, or a list of numbers"),
        ("baseline.top_k=3", "unknown override 'baseline.top_k'"),
        ("env.settings.size=3", "unknown override 'env.settings.size'"),
        ("seed", "override 'seed': must have the form key=value"),
        ("seed=[1", "override 'seed=[1': must have the form key=value"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        compose_config("train", [override])
    assert "\n" not in str(error.value)


def test_build_names_what_does_not_fit():
    target = {"_target_": "memo_lightning.envs.DarkKeyToDoor", "room_size": 5, "colour": "red"}
    with pytest.raises(UserError, match=r"DarkKeyToDoor.*'colour'"):
        build(target, n_envs=1)
    with pytest.raises(UserError, match="summary_length=9"):
        build(compose_config("train", ["model.summary_length=9", "model.segment_length=8"]).model)


def test_segments_may_be_jittered_to_one_side():
    model = build(compose_config("train", ["model.segment_jitter=[0.0,0.25]"]).model).train()
    drawn = {model.draw_segment_length() for _ in range(300)}
    assert min(drawn) == model.segment_length < max(drawn) <= 1.25 * model.segment_length


@pytest.mark.parametrize("before", ["0.2", "[0.0,0.25]"])
@pytest.mark.parametrize(("after", "value"), [("0.1", 0.1), ("0", 0), ("[0.1,0.0]", [0.1, 0.0])])
def test_a_number_or_a_list_may_be_changed_to_either(before, after, value):
    config = compose_config("train", [f"model.segment_jitter={before}"])
    apply_overrides(config, [f"model.segment_jitter={after}"])
    assert config.model.segment_jitter == value


def test_the_type_of_every_setting_that_is_null_by_default_is_known():
    """One that is added must become a number, or one of those that may hold anything."""
    text = {
        *("address", "checkpoint", "evaluation", "experiment", "debug", "folder", "id", "in_keys", "memories", "name"),
        *("out", "precision", "pruner", "repo", "resume", "run_dir", "run_name", "storage", "study", "target", "token"),
        *("weights", "tracking_uri", "images"),
    }
    found = set()
    for path in config_dir().rglob("*.yaml"):
        if path.parent.name not in ("experiment", "reproduce"):
            found |= set(re.findall(r"^ *(\w+): null", path.read_text(), re.MULTILINE))
    assert found <= {*_INTEGER_OR_NULL, *_NUMBER_OR_NULL, *text}


@pytest.mark.parametrize(
    "override", ["env.dataset.n_houses=2.5", "model.memory_budget=abc", "model.memory_budget=true"]
)
def test_a_setting_that_is_null_by_default_has_a_type_too(override):
    with pytest.raises(UserError, match="must be an integer, or null"):
        compose_config("train", ["env=ext_objnav", override])


def test_null_is_allowed_again_where_an_experiment_replaced_it():
    config = compose_config(
        "train", ["experiment=ext_objnav_small", "env.dataset.n_houses=null", "encoder.in_keys=null"]
    )
    assert (config.env.dataset.n_houses, config.encoder.in_keys) == (None, None)
    with pytest.raises(UserError, match=r"env\.dataset\.n_types=null: must be an integer"):
        compose_config("train", ["experiment=ext_objnav_small", "env.dataset.n_types=null"])
    with pytest.raises(UserError, match=r"env\.episode_length=null: must be an integer"):
        compose_config("train", ["experiment=ext_objnav_small", "env.episode_length=null"])


def test_null_is_allowed_again_with_an_experiment_and_an_environment_of_ones_own(tmp_path):
    for folder in ("experiment", "env"):
        (tmp_path / folder).mkdir()
    (tmp_path / "env" / "own.yaml").write_text((config_dir() / "env" / "dark_key_to_door.yaml").read_text())
    experiment = tmp_path / "experiment" / "mine.yaml"
    experiment.write_text("# @package _global_\ndefaults:\n  - override /env: own\nmodel:\n  memory_budget: 60\n")
    assert compose_config("train", [f"experiment={experiment}"]).model.memory_budget == 60
    config = compose_config("train", [f"experiment={experiment}", "model.memory_budget=null"])
    assert (config.model.memory_budget, config.choices.env) == (None, "own")


def test_settings_that_the_files_leave_open_need_no_plus():
    settings = ["env.settings.size=3", "baseline.settings.depth=2", "baseline.rate=0.5", "algorithm.optimizer.eps=1e-5"]
    settings += ["trainer.max_time=1"]
    for plus in ("", "+"):
        config = compose_config("train", ["env=gymnasium", "baseline=custom", *(plus + text for text in settings)])
        assert config.env.settings == {"size": 3}
        assert (config.baseline.settings, config.baseline.rate) == ({"depth": 2}, 0.5)
        assert (config.algorithm.optimizer.eps, config.trainer.max_time) == (1e-5, 1)
    changes = compose_config("evaluate", ["env.room_size=4", "model.memory_budget=18"])
    assert (changes.env, changes.model) == ({"room_size": 4}, {"memory_budget": 18})
    with pytest.raises(UserError, match=r"unknown override 'logger\.run_name'"):
        compose_config("train", ["logger=none", "logger.run_name=x"])


@pytest.mark.parametrize("group", ["env", "debug", "baseline", "experiment", "model"])
def test_every_option_composes(group):
    for path in (config_dir() / group).glob("*.yaml"):
        config = compose_config("train", [f"{group}={path.stem}"])
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["foo=3"], "unknown override 'foo'"),
        (["foo._target_=x"], "unknown override 'foo._target_'"),
        (["callbacks.foo.lines=3"], "unknown override 'callbacks.foo.lines'"),
        (["callbacks.foo=3"], "unknown override 'callbacks.foo'"),
        (["callbacks.progress=3"], "callbacks.progress=3: must be settings"),
        (["encoder.width=3"], "unknown override 'encoder.width'"),
        (["env=gymnasium", "env.wrappers=my.Wrapper"], "env.wrappers='my.Wrapper': must be a list, e.g. [a,b]"),
        (["env=gymnasium", "env.settings=3"], "env.settings=3: must be settings"),
        (["env=ext_objnav", "env.dataset={n_hous: 3}"], "unknown override 'env.dataset.n_hous': did you mean"),
        (["env=ext_objnav", "env.dataset=null"], "env.dataset=null: must be settings"),
        (["trainer.strategy={a: 1}"], "trainer.strategy={}: must be text"),
        (["seed=-1"], "seed=-1: must be from 0 to 4294967295"),
        (["seed=4294967296"], "seed=4294967296: must be from 0 to 4294967295"),
        (["total_frames=null"], "total_frames=null: must be an integer"),
        (["baseline.top_k=3"], "unknown override 'baseline.top_k': exists only with baseline=retrieval"),
    ],
)
@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_plus_does_not_make_a_setting_that_is_not_used(plus, overrides, message):
    *options, last = overrides
    with pytest.raises(UserError, match=re.escape(message)) as error:
        compose_config("train", [*options, f"{plus}{last}"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("plus", ["", "+"])
@pytest.mark.parametrize("outer", ["experiment=ext_objnav", "env=ext_objnav", "env=gymnasium", ""])
def test_a_group_within_another_is_chosen_with_or_without_a_plus(plus, outer):
    config = compose_config("train", [*([outer] if outer else []), f"{plus}env/vision=vit", "env.vision.key=image"])
    assert (config.choices["env/vision"], config.env.vision.key) == ("vit", "image")


def test_a_vit_sees_nothing_where_there_are_no_images():
    config = compose_config("train", ["env=t_maze", "env/vision=vit"])
    with pytest.raises(UserError, match=r"^env/vision=vit: the environment has no image observations; leave it out$"):
        build_env(config.env, 1, 0)


def test_a_class_of_ones_own_takes_its_own_settings_without_a_plus():
    overrides = ["encoder._target_=my.Encoder", "encoder.width=3"]
    overrides += ["callbacks.mine={_target_: my.Callback, every: 5}", "callbacks.other._target_=my.Other"]
    overrides += ["callbacks.other.rate=0.5", "logger.tags.note=first try", "logger.tags={kind: pilot}"]
    config = compose_config("train", overrides)
    assert config.encoder.width == 3
    assert config.callbacks.mine == {"_target_": "my.Callback", "every": 5}
    assert config.callbacks.other.rate == 0.5
    assert config.logger.tags == {"note": "first try", "kind": "pilot"}
    assert compose_config("compare", ["tags.environment=darkroom"]).tags == {"environment": "darkroom"}
    assert compose_config("benchmark", ['arms.mine=["baseline=lstm"]']).arms.mine == ["baseline=lstm"]


def test_no_documented_setting_needs_a_plus():
    root = config_dir().parent
    texts = [root / "README.md", *(root / "docs").rglob("*.md"), *(root / "conf").rglob("*.yaml")]
    for path in texts:
        assert not re.search(r"(?<![\w+])\+[a-z_]+\.[\w.]+=", path.read_text()), path


def test_a_target_that_cannot_be_imported_within_a_node_is_one_line():
    node = {"_target_": "memo_lightning.envs.DarkKeyToDoor", "room_size": {"_target_": "nowhere.Size"}}
    with pytest.raises(UserError, match="nowhere") as error:
        build(node, n_envs=1)
    assert "\n" not in str(error.value)


def test_a_configuration_is_composed_anew_whatever_was_done_to_one_before(tmp_path, monkeypatch):
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    for seed in (3, 4):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"number {seed}")
        file.write_text(f"# @package _global_\nseed: {seed}\n")
        assert compose_config("train", [f"experiment={file}"]).seed == seed, "the file has changed"
        config = compose_config("train", ["baseline=lstm"])
        assert (config.seed, config.choices.baseline, config.logger.experiment_name) == (0, "lstm", f"number {seed}")
        config.seed, config.env.room_size, config.choices.baseline = 9, 99, "none"


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("train", ["env=gymnasium", "env.id=3"], "env.id=3: must be text, or null"),
        ("train", ["env=custom", "env.target=[a]"], "env.target=['a']: must be text, or null"),
        (
            "train",
            ["encoder.in_keys=observation"],
            "encoder.in_keys='observation': must be a list, e.g. [a,b], or null",
        ),
        ("benchmark", ["memories=lstm"], "memories='lstm': must be a list, e.g. [a,b], or null"),
    ],
)
def test_settings_that_are_null_by_default_have_a_type_too(name, overrides, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        compose_config(name, overrides)
    compose_config(name, [*overrides[:-1], f"{overrides[-1].partition('=')[0]}=null"])


def test_a_folder_with_a_number_as_its_name_is_a_folder():
    config = compose_config("train", ["algorithm=actor_critic", "algorithm.replay.folder=3"])
    assert config.algorithm.replay.folder == "3"
