"""Observation keys may have any name: they never clash with our own keys or with methods of a TensorDict."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase, check_env_specs

from memo_lightning.data import RolloutDataModule
from memo_lightning.envs.build import build_env
from memo_lightning.envs.gymnasium import GymnasiumEnv
from memo_lightning.envs.interface import interface_of
from memo_lightning.errors import UserError
from memo_lightning.policies import Agent, PolicySpec
from tiny import MEMO

NAMES = [
    "items",
    "step_count",
    "state_value",
    "action_log_prob",
    "previous_step",
    "is_init",
    "a.b",
    "observation",
    "keys",
    "action",
    "hidden",
]
# Names that a TorchRL environment cannot have at top level: the first two are our own, the others TorchRL's.
OF_GYMNASIUM_ONLY = ["reward", "episode_end", "device", "shape", "batch_size", "self"]
MEMORY = {**MEMO, "segment_length": 4}


def value_of(names, name, t):
    """Return the value of key ``name`` at step t of an episode."""
    return 0.1 * names.index(name) + 0.01 * t


class Shows(gymnasium.Env):
    """Shows a different number for every key at every step; an episode has four steps."""

    action_space = spaces.Discrete(3)

    def __init__(self, names):
        self.names = names
        self.observation_space = spaces.Dict({name: spaces.Box(-9e9, 9e9, (1,), np.float32) for name in names})

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        return self._observe(), 0.5, self.t == 4, False, {}

    def _observe(self):
        return {name: np.full(1, value_of(self.names, name, self.t), np.float32) for name in self.names}


class TorchRLShows(EnvBase):
    """The same, as a TorchRL environment, single or batched."""

    def __init__(self, n_envs=None, names=NAMES):
        shape = () if n_envs is None else (n_envs,)
        super().__init__(batch_size=shape)
        self.names = list(map(tuple_of, names))
        observed = Composite(shape=shape)
        for name in self.names:
            observed[name] = Unbounded((*shape, 1))
        self.observation_spec = observed
        self.action_spec, self.reward_spec = Categorical(3, shape=shape), Unbounded((*shape, 1))
        self.t = torch.zeros(*shape, 1)

    def _reset(self, tensordict=None, **_):
        which = None if tensordict is None else tensordict.get("_reset", None)
        self.t = torch.zeros_like(self.t) if which is None else self.t.masked_fill(which.view(self.t.shape), 0.0)
        return self._results()

    def _step(self, tensordict):
        self.t = self.t + 1
        return self._results().set("reward", torch.full_like(self.t, 0.5))

    def _results(self):
        over = self.t == 4
        td = TensorDict({"done": over, "terminated": over.clone()}, self.batch_size)
        for name in self.names:
            td[name] = value_of(self.names, name, self.t)
        return td

    def _set_seed(self, seed):
        pass


def tuple_of(name):
    return tuple(name.split("/")) if "/" in name else name


def make_single(names=NAMES):
    return TorchRLShows(names=names)


def gymnasium_config(names):
    target = "memo_lightning.envs.gymnasium.GymnasiumEnv"
    return {"_target_": target, "make": lambda: Shows(names), "trial_length": 6, "episodes_per_trial": None}


def custom_config(function, **settings):
    target = "memo_lightning.envs.custom.make_custom_env"
    return {"_target_": target, "target": f"{__name__}:{function}", "settings": settings, "trial_length": 6}


def spec_for(env):
    encoder = {"_target_": "memo_lightning.policies.ObservationEncoder"}
    return PolicySpec(interface_of(env), encoder, MEMORY, "memo_lightning.policies.heads.ActorCriticHeads")


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (gymnasium_config(NAMES + OF_GYMNASIUM_ONLY), NAMES + OF_GYMNASIUM_ONLY),
        (custom_config("TorchRLShows"), NAMES),
        (custom_config("make_single"), NAMES),
    ],
    ids=["gymnasium", "batched", "single"],
)
def test_values_reach_the_encoder_of_a_policy_that_acts(config, names):
    data = RolloutDataModule(
        lambda n, seed: build_env(config, n, seed), n_envs=2, rollout_length=6, n_chunks=1, total_frames=12, seed=0
    )
    check_env_specs(data.env)
    torch.manual_seed(0)
    policy = spec_for(data.env).build()
    seen = []
    policy.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    steps = next(iter(data._build_collector(policy, 0)))["steps"]

    stored = {f"{name}_" if name in ("device", "shape", "batch_size", "self") else name: name for name in names}
    assert set(steps["observation"].keys()) == set(stored)
    assert {key for key in policy.encoder.in_keys if key != "previous_step"} == {("observation", key) for key in stored}
    times = [0, 1, 2, 3, 0, 1]
    for key, name in stored.items():
        expected = torch.tensor([value_of(names, name, t) for t in times])
        torch.testing.assert_close(steps["observation", key].squeeze(-1), expected.expand(2, 6), msg=name)
        for inputs, value in zip(seen[:6], expected, strict=True):
            torch.testing.assert_close(inputs["observation", key], value.expand(2, 1), msg=name)
    assert torch.equal(steps["next", "reward"], torch.full((2, 6, 1), 0.5))
    assert steps["is_init"].dtype == torch.bool
    assert ((steps["action"] >= 0) & (steps["action"] < 3)).all()
    assert (steps["action_log_prob"] < 0).all()

    before = policy.encoder(steps)
    for key in stored:
        changed = steps.clone()
        changed["observation", key] += 1.0
        assert not torch.allclose(policy.encoder(changed), before), key


def test_an_agent_reads_such_observations_by_itself():
    names = NAMES + OF_GYMNASIUM_ONLY
    spec = spec_for(build_env(gymnasium_config(names), 1, 0))
    spec = PolicySpec.from_plain(spec.as_plain())
    agent, env = Agent(spec, spec.build(), {}), Shows(names)
    seen = []
    agent.policy.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    observation, _ = env.reset()
    state = agent.initial_state()
    for t in range(3):
        action, state = agent.act(observation, state)
        assert action in (0, 1, 2)
        assert seen[-1]["observation", "device_"].item() == pytest.approx(value_of(names, "device", t))
        assert seen[-1]["observation", "is_init"].item() == pytest.approx(value_of(names, "is_init", t))
        observation, *_ = env.step(action)


def test_names_that_torchrl_reserves_are_chosen_and_ignored():
    env = GymnasiumEnv(n_envs=1, make=lambda: Shows(["device", "shape", "x"]), trial_length=4, ignore=["shape"])
    assert sorted(key.name for key in env.interface.keys) == ["device_", "x"]
    observed = env.interface.observed()
    encoder = {"_target_": "memo_lightning.policies.ObservationEncoder", "in_keys": ["device_"]}
    policy = PolicySpec(env.interface, encoder, MEMORY, "memo_lightning.policies.heads.ActorCriticHeads").build()
    assert policy.encoder.in_keys == [("observation", "device_")]
    assert set(observed["observation"].keys()) == {"device_", "x"}
    with pytest.raises(UserError, match="'device_': two keys have this name"):
        GymnasiumEnv(n_envs=1, make=lambda: Shows(["device", "device_"]), trial_length=4)


def test_what_a_torchrl_environment_nests_is_called_by_its_joined_names():
    env = build_env(custom_config("TorchRLShows", names=["agent/reward", "agent/deep/x", "observation/y"]), 2, 0)
    check_env_specs(env)
    assert set(env.reset()["observation"].keys()) == {"agent_reward", "agent_deep_x", "observation_y"}
    with pytest.raises(UserError, match="'agent_x': two keys have this name"):
        build_env(custom_config("TorchRLShows", names=["agent/x", "agent_x"]), 2, 0)
