"""Every documented setting of every group and command has an effect: changing it changes something or is rejected.

Effects are observed on what is built from the settings: the behaviour of an environment, the computation of a memory,
the results of a small training, the arguments of the Trainer. Settings whose effect needs a whole command are tested
with that command; here we only check that some test names them.
"""

import json
from collections import deque
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDictBase

from memo_lightning.algorithms import Algorithm
from memo_lightning.cli.main import main
from memo_lightning.config import build, compose_config, config_dir, group_options, setting_names
from memo_lightning.envs.build import build_env
from memo_lightning.errors import UserError
from memo_lightning.policies.checkpoint import read_checkpoint
from memo_lightning.policies.spec import build_memory
from memo_lightning.tracking.run_logger import RunLogger
from memo_lightning.training.checkpoint_io import AtomicCheckpointIO
from memo_lightning.training.parts import build_baseline, policy_spec
from memo_lightning.training.train import train
from memo_lightning.training.trainer import build_trainer
from tiny import TINY_OFF_POLICY, TINY_TRAINING, without_times

TESTS = Path(__file__).parent
_SEEN = {}  # what probes saw with the defaults, which many settings are compared with
REFUSED = "refused"  # the value is invalid for the setting


class Task(gymnasium.Env):
    """Shows the time and a number drawn at the start of each episode, unless it is asked to keep its task."""

    observation_space = gymnasium.spaces.Dict(
        number=gymnasium.spaces.Discrete(1000), time=gymnasium.spaces.Box(0, 100, (1,), np.float32)
    )
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, steps=5):
        self.steps, self.number = steps, None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        if (options or {}).get("new_task", True):
            self.number = int(self.np_random.integers(1000))
        return self._observe(), {"action_mask": np.array([1, 0, 1])}

    def step(self, action):
        self.t += 1
        return self._observe(), 1.0, self.t == self.steps, False, {"action_mask": np.array([1, 0, 1])}

    def _observe(self):
        return {"number": self.number, "time": np.array([self.t], np.float32)}


class Shift(gymnasium.ObservationWrapper):
    """Adds a constant to the time."""

    def __init__(self, env, by):
        super().__init__(env)
        self.by = by

    def observation(self, observation):
        return {**observation, "time": observation["time"] + self.by}


gymnasium.register("tests/Task-v0", Task)
gymnasium.register("tests/OtherTask-v0", partial(Task, steps=3))

# Group or option -> its settings, each with a non-default value; pairs first list other overrides that are needed.
ENVIRONMENT = {
    "trial_length": "17",
    "split": "held_out",
    "observe_reward": "false",
    "normalize_observations": "true",
    "normalize_rewards": "true",
}
ROOM = {**ENVIRONMENT, "room_size": "4", "episode_length": "7", "lit": "true"}
GYMNASIUM = {
    **ENVIRONMENT,
    "trial_length": ("env.episodes_per_trial=null", "17"),
    "settings": "{steps: 4}",
    "wrappers": "[{_target_: test_settings.Shift, by: 3}]",
    "ignore": "[number]",
    "mask_actions": "false",
    "episode_length": "3",
    "episodes_per_trial": "2",
    "time_limit_is_end": "true",
    "same_task": ("env.episodes_per_trial=null", "option"),
    "success_return": "5",
    "workers": "1",
    "step_timeout": "0",
    "images": "{number: channels_last}",
}
ENVIRONMENTS = {
    "dark_key_to_door": {**ROOM, "layouts_per_trial": "2", "reset_costs_a_step": "true"},
    "dark_key_to_door_9x9": {**ROOM, "layouts_per_trial": "2", "reset_costs_a_step": "true"},
    "darkroom": ROOM,
    "many_rooms": {**ROOM, "n_rooms": "3"},
    "t_maze": {**ENVIRONMENT, "carried": "false", "split": REFUSED + "=neither"},  # both tasks belong to every split
    "gymnasium": {**GYMNASIUM, "id": "tests/OtherTask-v0"},
    "custom": {**GYMNASIUM, "target": "test_settings:NoTask"},
}
MODEL = {
    "d_model": "8",
    "n_layers": "1",
    "n_heads": "2",
    "d_ff": "8",
    "segment_length": "7",
    "summary_length": "1",
    "segment_jitter": "0.0",
    "memory_budget": "9",
    "max_summary_age": ("model.segment_length=3", "1"),
    "checkpoint_segments": "true",
    "sink_kv": "true",
    "layer_drop": "0.9",
}
BASELINES = {
    "autocompressor": {"memory_budget": "9", "gradient_segments": "1"},
    "custom": {"target": "memo_lightning.models.GRU", "settings": "{n_layers: 3}"},
    "direct_kv": {"memory_budget": "9"},
    "full_context": {"position_offset": "3", "memory_budget": "9"},
    "gru": {},
    "lstm": {},
    "memoryless": {},
    "no_iea": {"memory_scope": "trial"},
    "none": {},
    "retrieval": {"memory_budget": "9", "top_k": "1", "memory_loss_coef": "0.5"},
    "rmt": {"equal_memory_at": "40"},
    "sliding_window": {"position_offset": "3", "memory_budget": "9"},
}
ENCODER = {"in_keys": "[observation]", "checkpoint_steps": REFUSED + "=0"}
ENCODERS = {"auto": ENCODER, "vector": ENCODER}
TRAINING = {
    "algorithm.gamma": "0.5",
    "algorithm.gae_lambda": "0.5",
    "algorithm.cross_episode_returns": "true",
    "algorithm.clip_epsilon": ("algorithm.learning_rate=0.1", "0.01"),
    "algorithm.entropy_coef": "0.1",
    "algorithm.value_coef": "0.1",
    "algorithm.n_epochs": "1",
    "algorithm.n_minibatches": "2",
    "algorithm.normalize_advantage": "false",
    "algorithm.target_kl": "1e-9",
    "algorithm.recompute_log_probs": "true",
    "algorithm.shuffle_episodes": ("collector.n_chunks=2 env.episode_length=4", "true"),
    "algorithm.detach_older_encodings": ("collector.n_chunks=4", "true"),
    "algorithm.learning_rate": "0.1",
    "algorithm.warmup_frames": "1000",
    "algorithm.schedule": "cosine",
    "algorithm.optimizer._target_": "torch.optim.SGD",
    "algorithm.max_grad_norm": "1e-3",
    "algorithm.reward_scale": "3.0",
    "algorithm.max_skipped_updates": REFUSED + "=-1",
    "collector.n_envs": "4",
    "collector.rollout_length": "10",
    "collector.n_chunks": "2",
    "seed": "1",
    "total_frames": "80",
    "callbacks.metrics.window": ("total_frames=320", "1"),
}
ACTOR_CRITIC = {
    "gamma": "0.5",
    "other_gammas": "[0.5]",
    "cross_episode_returns": "true",
    "n_critics": "3",
    "n_minimum": "1",
    "critic_width": "4",
    "critic_coef": "1.0",
    "clone_coef": "1.0",
    "tau": "0.5",
    "popart_rate": "1.0",
    "updates_per_frame": "0.1",
    "learning_starts": "0",
    "max_staleness": ("collector.n_chunks=2 algorithm.random_actions=0", "100"),
    "random_actions": "0.0",
    "random_actions_end": "1.0",
    "random_actions_frames": "1",
    "learning_rate": "0.1",
    "warmup_frames": "1000",
    "schedule": "cosine",
    "optimizer._target_": "torch.optim.SGD",
    "optimizer.weight_decay": "0.5",
    "max_grad_norm": "1e-3",
    "max_skipped_updates": REFUSED + "=-1",
    "replay.capacity_trials": "4",
    "replay.capacity_bytes": "1",
    "replay.trial_length": REFUSED + "=10",
    "replay.batch_size": "3",
    "replay.sampling": "prioritized",
    "replay.alpha": ("algorithm.replay.sampling=prioritized", "0.0"),
    "replay.beta": ("algorithm.replay.sampling=prioritized", "0.0"),
}
TRAINER = {
    "accelerator": "abacus",
    "devices": "0",
    "num_nodes": "2",
    "strategy": "abacus",
    "precision": "bf16-mixed",
    "log_every_n_steps": "3",
}
CALLBACKS = {
    "metrics.window": "1",
    "progress.lines": "3",
    "checkpointing.run_dir": "elsewhere",
    "checkpointing.every_n_rollouts": "3",
    "preemption.grace_seconds": "3",
    "shared_cores.enabled": "false",
    "report.run_dir": "elsewhere",
}
COLLECTORS = {
    "multi_sync": {"n_workers": "1"},
    "multi_async": {"n_workers": "1"},
}
LOGGER = {
    "tracking_uri": "sqlite:///other.db",
    "experiment_name": "other",
    "run_dir": "other",
    "run_name": "other",
    "retry_seconds": "1",
    "tags": "{note: first}",
}
EVALUATION = {
    "checkpoint": "nowhere.ckpt",
    "device": "abacus",
    "n_trials": "2",
    "n_envs": "2",
    "split": "train",
    "trial_multiplier": "2",
    "bin_steps": "3",
    "memory_budget": "18",
    "full_memory": ("memory_budget=18", "false"),
    "render": "true",
    "render_steps": ("render=true", "0"),
    "deterministic": "true",
    "seed": "1",
    "run_dir": "elsewhere",
    "env": "{lit: true}",
    "model": "{segment_length: 5}",
}
# Settings whose effect needs a whole command, another machine or a GPU -> the test file that covers them.
ELSEWHERE = {
    "algorithm.noise_correlation": "algorithms/test_ppo.py",
    "algorithm.replay.folder": "algorithms/test_actor_critic.py",
    "baseline.none": "tracking/test_names.py",
    "checkpoint": "training/test_fine_tuning.py",
    "compile": "training/test_precision.py",
    "cuda_graphs": "training/test_trainer.py",
    "resume": "training/test_resumed_settings.py",
    "run_dir": "cli/test_commands.py",
    "evaluate.tracking_uri": "tracking/test_server.py",
    "evaluate.trust_env": "sharing/test_package.py",
    "collector.cpus_per_worker": "data/test_ray.py",
    "collector.address": "data/test_ray.py",
}


def nested(value):
    """Convert a structure of tensors, arrays and settings to plain values that can be compared."""
    if isinstance(value, TensorDictBase):
        return {str(key): nested(value.get(key)) for key in value.keys(True, True)}
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), value.detach().double().nan_to_num(-1).flatten().tolist()]
    if isinstance(value, dict):
        return {key: nested(part) for key, part in value.items()}
    return repr(value)


def simple(thing):
    """Return the attributes of an object that are numbers, text, paths, or mappings and sequences of these."""
    kinds = (bool, int, float, str, Path, dict, list, tuple, deque, type(None))
    return {name: repr(value) for name, value in vars(thing).items() if isinstance(value, kinds)}


def differs(probe, base, key, change):
    """Return whether another value of ``key`` changes what ``probe`` sees, or is rejected."""
    before, value = change if isinstance(change, tuple) else ("", change)
    overrides = [*base, *before.split()]
    name = (probe.__qualname__, key.rpartition(".")[0], *overrides)
    if name not in _SEEN:
        _SEEN[name] = probe(overrides)
    try:
        return probe([*overrides, f"{key}={value.removeprefix(REFUSED + '=')}"]) != _SEEN[name]
    except UserError:
        return True


def names_of(group, option):
    names = setting_names(compose_config("train", [f"{group}={option}"]))
    names = {name.removeprefix(f"{group}.") for name in names if name.startswith(f"{group}.")}
    return {name for name in names if not name.endswith("_partial_")}


# The settings that exist, compared with the tables above.


@pytest.mark.parametrize(
    ("group", "table"),
    [("env", ENVIRONMENTS), ("baseline", BASELINES), ("encoder", ENCODERS)],
)
def test_the_tables_hold_every_setting_of_every_option(group, table):
    for option in set(group_options(group)) - {"ext_objnav"}:
        fixed = set() if option == "custom" else {"target"}  # fixed by an option of conf/baseline/
        assert names_of(group, option) - fixed == set(table.get(option, {})) - fixed, option


def test_the_tables_hold_every_setting_of_a_training():
    assert names_of("model", "memo") == set(MODEL)
    assert names_of("trainer", "cpu") == names_of("trainer", "gpu") == set(TRAINER)
    assert names_of("callbacks", "default") == set(CALLBACKS)
    assert names_of("logger", "mlflow") == set(LOGGER)
    known = {*TRAINING, *ELSEWHERE}
    assert {f"algorithm.{name}" for name in names_of("algorithm", "ppo")} <= known
    tested = {name for name in ACTOR_CRITIC if not name.endswith("_target_")}
    assert names_of("algorithm", "actor_critic") == {*tested, "replay.folder"}
    for option in group_options("collector"):
        extra = set(COLLECTORS.get(option, {"n_workers": "", "cpus_per_worker": "", "address": ""}))
        assert names_of("collector", option) - extra <= {name.partition(".")[2] for name in TRAINING}, option
    groups = {path.name for path in config_dir().iterdir() if path.is_dir()}
    top = {name for name in setting_names(compose_config("train")) if name.partition(".")[0] not in groups}
    assert top <= known
    config = compose_config("evaluate")
    assert set(setting_names(config)) <= {*EVALUATION, "tracking_uri", "trust_env"}


@pytest.mark.parametrize(("setting", "file"), ELSEWHERE.items())
def test_settings_that_are_tested_elsewhere_are_named_there(setting, file):
    assert setting.rpartition(".")[2] in (TESTS / file).read_text()


@pytest.mark.parametrize(
    "name", ["benchmark", "compare", "doctor", "export-houses", "register", "reproduce", "sweep", "ui"]
)
def test_settings_of_other_commands_are_named_in_the_code_that_follows_them(name):
    """Commands read their settings by name, so a setting that nothing reads has no effect."""
    code = "".join(path.read_text() for path in (TESTS.parent / "src" / "memo_lightning").rglob("*.py"))
    for setting in setting_names(compose_config(name)):
        if "_target_" in setting or setting.startswith(("dataset.", "model.", "arms.")):
            continue  # keyword arguments, rejected where they are unknown
        word = setting.partition(".")[0].split("[")[0]
        assert f".{word}" in code or f'"{word}"' in code, setting


# Probes: what the settings change.


def behaviour(overrides, n_steps=40):
    """Return the behaviour of an environment under random actions, and its interface for a policy."""
    config = compose_config("train", overrides)
    env = build_env(config.env, 2, 0)
    try:
        torch.manual_seed(0)
        rollout = env.rollout(n_steps, break_when_any_done=False)
        plain = OmegaConf.to_container(config, resolve=True)
        algorithm: Algorithm = build(config.algorithm)
        spec = policy_spec(plain, env, algorithm).as_plain()
        runners = type(getattr(env.base_env, "_runners", None)).__name__
        return nested(rollout), spec["interface"], {k: v for k, v in spec.items() if "normalize" in k}, runners
    finally:
        env.close()


@pytest.mark.parametrize(
    ("option", "setting", "change"), [(o, *item) for o, table in ENVIRONMENTS.items() for item in table.items()]
)
def test_settings_of_environments(option, setting, change):
    base = [f"env={option}", "env.trial_length=12"]
    if "room_size" in ENVIRONMENTS[option]:
        base += ["env.room_size=3", "env.episode_length=6"]
    base += {"gymnasium": ["env.id=tests/Task-v0"], "custom": ["env.target=test_settings:Task"]}.get(option, [])
    if setting == "time_limit_is_end":
        base.append("env.trial_length=9")  # within an episode
    assert differs(behaviour, base, f"env.{setting}", change)


def computation(overrides):
    """Return what a memory computes in training, keeps for the backward pass, and stores while acting."""
    config = OmegaConf.to_container(compose_config("train", overrides), resolve=True)
    torch.manual_seed(0)
    baseline = build_baseline(config)
    model = baseline.model if baseline else build_memory(config["model"])
    x = torch.randn(2, 40, model.d_model)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        torch.manual_seed(0)
        y = model(x.requires_grad_())
    y.square().sum().backward()
    loss = model.auxiliary_loss()
    model.eval()
    state = model.init_state(2)
    with torch.no_grad():
        for t in range(40):
            y_t, state = model.step(x[:, t], state)
    scalars = {name: value for name, value in vars(model).items() if isinstance(value, int | float | str)}
    return (
        nested(y),
        nested(x.grad),
        sum(kept),
        nested(y_t),
        model.state_nbytes(state),
        loss if loss is None else loss.item(),
        scalars,
    )


SMALL_MODEL = ["model.d_model=16", "model.n_layers=2", "model.d_ff=16", "model.segment_length=10"]


@pytest.mark.parametrize(("setting", "change"), MODEL.items())
def test_settings_of_memo(setting, change):
    assert differs(computation, SMALL_MODEL, f"model.{setting}", change)


@pytest.mark.parametrize(
    ("option", "setting", "change"), [(o, *item) for o, table in BASELINES.items() for item in table.items()]
)
def test_settings_of_baselines(option, setting, change):
    base = [*SMALL_MODEL, f"baseline={option}"]
    base += ["baseline.target=memo_lightning.models.LSTM"] if option == "custom" else []
    assert differs(computation, base, f"baseline.{setting}", change)


@pytest.mark.parametrize("option", ENCODERS)
def test_settings_of_encoders(option):
    def parameters(overrides):
        config = compose_config("train", overrides)
        plain = OmegaConf.to_container(config, resolve=True)
        spec = policy_spec(plain, build_env(config.env, 1, 0), build(config.algorithm))
        return {name: list(value.shape) for name, value in spec.build().state_dict().items()}

    for setting, change in ENCODERS[option].items():
        assert differs(parameters, [f"encoder={option}"], f"encoder.{setting}", change)


@pytest.fixture
def leaves(in_tmp_dir):
    """Return the metrics and weights of a training with four environments and two rollouts of twenty steps."""
    small = ["env.trial_length=20", "collector.n_envs=4", "total_frames=160"]
    n_runs = iter(range(100))

    def run(overrides):
        minibatches = [] if "algorithm=actor_critic" in overrides else ["algorithm.n_minibatches=4"]
        config = compose_config(
            "train",
            [
                *TINY_TRAINING,
                *minibatches,
                *small,
                "env.lit=true",
                "logger=none",
                f"run_dir={next(n_runs)}",
                *overrides,
            ],
        )
        metrics = train(config)
        weights = read_checkpoint(Path(config.run_dir) / "checkpoints" / "last.ckpt")["state_dict"]
        return without_times(metrics), nested(weights)

    return run


@pytest.mark.parametrize(("setting", "change"), TRAINING.items())
def test_settings_of_training(setting, change, leaves):
    if setting == "collector.n_envs":
        change = ("algorithm.n_minibatches=2", "2")
    assert differs(leaves, [], setting, change)


@pytest.mark.parametrize(("setting", "change"), ACTOR_CRITIC.items())
def test_settings_of_the_actor_critic(setting, change, leaves):
    off_policy = [*TINY_OFF_POLICY, "env.trial_length=20", "collector.n_envs=4", "total_frames=320"]
    often = ["algorithm.learning_starts=80", "algorithm.updates_per_frame=0.025", "env.episode_length=4"]
    assert differs(leaves, [*off_policy, *often], f"algorithm.{setting}", change)


@pytest.mark.parametrize(("setting", "change"), TRAINER.items())
def test_settings_of_the_trainer(setting, change):
    def built(overrides):
        trainer = build_trainer(compose_config("train", overrides), [], AtomicCheckpointIO())
        precision = type(trainer.precision_plugin).__name__
        return trainer.num_nodes, trainer.num_devices, precision, trainer.log_every_n_steps, repr(trainer.strategy)[:60]

    assert differs(built, [], f"trainer.{setting}", change)


@pytest.mark.parametrize(("setting", "change"), CALLBACKS.items())
def test_settings_of_callbacks(setting, change):
    def built(overrides):
        return simple(build(compose_config("train", ["run_dir=run", *overrides]).callbacks[setting.partition(".")[0]]))

    assert differs(built, [], f"callbacks.{setting}", change)


@pytest.mark.parametrize("option", COLLECTORS)
def test_settings_of_collectors(option, make_env):
    def built(overrides):
        config = compose_config("train", [f"collector={option}", "collector.n_envs=4", *overrides])
        return simple(build(config.collector, make_env, total_frames=100, seed=0))

    assert differs(built, [], "collector.n_workers", COLLECTORS[option]["n_workers"])


@pytest.mark.parametrize(("setting", "change"), LOGGER.items())
def test_settings_of_the_logger(setting, change, monkeypatch):
    monkeypatch.setattr(RunLogger, "_begin", lambda self: None)

    def built(overrides):
        return simple(build(compose_config("train", ["run_dir=run", *overrides]).logger))

    assert differs(built, [], f"logger.{setting}", change)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    config = [*TINY_TRAINING, "total_frames=1", "logger=none", "algorithm.learning_rate=0.1", f"run_dir={folder}/run"]
    assert main(["train", *config]) == 0
    return folder / "run"


@pytest.mark.parametrize(("setting", "change"), EVALUATION.items())
def test_settings_of_evaluation(setting, change, checkpoint, in_tmp_dir):
    number = iter(range(9))

    def leave(overrides):
        folder = Path(f"evaluation{next(number)}")
        base = [f"checkpoint={checkpoint}", "n_trials=4", "n_envs=4", f"run_dir={folder}"]
        if main(["evaluate", *base, *overrides]) != 0:
            raise UserError("refused")
        return json.loads((folder / "evaluation.json").read_text()) if folder.exists() else None

    assert differs(leave, [], setting, change)
