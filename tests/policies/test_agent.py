"""``memo_lightning.load``: an agent given raw observations acts like the policy in its environment."""

import os
import random
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torchrl.envs import Compose, InitTracker, TransformedEnv

import memo_lightning
from memo_lightning.cli.main import main
from memo_lightning.envs import PreviousStep
from memo_lightning.envs.gymnasium import GymnasiumEnv
from memo_lightning.envs.interface import interface_of
from memo_lightning.errors import UserError
from memo_lightning.evaluation.trials import acting
from tiny import TINY_TRAINING
from untrained import save_untrained

STACK = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 32}
MEMORIES = {
    "memo": {"_target_": "memo_lightning.models.MemoTransformer", **STACK, "segment_length": 5, "summary_length": 2},
    "lstm": {"_target_": "memo_lightning.models.LSTM", "d_model": 16, "n_layers": 1},
    "no_iea": {"_target_": "memo_lightning.models.FullContextTransformer", **STACK, "memory_scope": "episode"},
}
VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
NESTED = spaces.Dict(
    body=spaces.Dict(joints=VECTOR, gripper=spaces.Discrete(3)),
    extra=spaces.Tuple([spaces.MultiBinary(2), spaces.Box(-np.inf, np.inf, (2, 2), np.float64)]),
)
SPACES = {  # observation, action
    "discrete with start": (spaces.Discrete(5, start=2), spaces.Discrete(3, start=-1)),
    "image, channels first": (spaces.Box(0, 255, (3, 10, 12), np.uint8), spaces.MultiDiscrete([2, 4])),
    "stacked frames": (spaces.Box(0, 255, (2, 10, 12, 3), np.uint8), spaces.Discrete(3)),
    "nested": (NESTED, spaces.Box(np.array([-2.0, 0.0]), np.array([1.0, 3.0]), (2,), np.float64)),
    "whole numbers": (VECTOR, spaces.Box(0, 9, (2, 1), np.int32)),
    "masked": (VECTOR, spaces.Discrete(4)),
}
MASK_OBSERVED = spaces.Dict(shown=VECTOR, action_mask=spaces.MultiBinary(4))


class Toy(gymnasium.Env):
    """Has random observations and rewards in episodes of four steps; records its observations and the actions taken."""

    def __init__(self, observation_space, action_space, masked):
        self.observation_space, self.action_space, self._masked = observation_space, action_space, masked
        self.steps = []  # observation and mask, and the action taken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self._t = 0
        return self._show()

    def step(self, action):
        self.steps.append((*self._shown, action))
        self._t += 1
        observation, info = self._show()
        return observation, float(self.np_random.normal()), self._t == 4, False, info

    def _show(self):
        mask = None
        if self._masked:
            mask = self.np_random.random(4) < 0.5
            mask[self.np_random.integers(4)] = True
        self._shown = self.observation_space.sample(), mask
        return self._shown[0], {} if mask is None else {"action_mask": mask}


def make_toy(name, *, with_reward=True):
    """Return an environment for policies, and the toys inside it."""
    toys = []

    def make():
        toys.append(Toy(*SPACES.get(name, (MASK_OBSERVED, spaces.Discrete(4))), name == "masked"))
        return toys[-1]

    env = GymnasiumEnv(n_envs=1, make=make, trial_length=13)
    transforms = Compose(PreviousStep(interface_of(env).action, with_reward=with_reward), InitTracker())
    return TransformedEnv(env, transforms), toys


def save_policy(path, env, memory="memo", *, seed=0, observes_reward=True, **settings):
    """Write a checkpoint of an untrained policy, and return the policy."""
    interface = interface_of(env, observes_reward=observes_reward)
    return save_untrained(path, interface, MEMORIES[memory], config={"seed": 3}, scale=4, seed=seed, **settings)


def rollout_of(env, policy, n_steps):
    env.set_seed(1)
    policy.reset_state()
    with acting(deterministic=True):
        return env.rollout(n_steps, policy, break_when_any_done=False)


def replay(agent, rollout, observations, masks=None, *, index=0):
    """Return the actions of an agent in the recorded trials of an environment, one trial after the other."""
    steps, actions = rollout[index], []
    state = agent.initial_state()
    for t, observation in enumerate(observations):
        before = steps["next"][t - 1] if t else None
        action, state = agent.act(
            observation,
            state,
            reward=0.0 if before is None else float(before["reward"]),
            episode_end=before is not None and bool(before["episode_end"]),
            deterministic=True,
            is_first=bool(steps["is_init"][t]),
            action_mask=None if masks is None else masks[t],
        )
        actions.append(action)
    return actions


def assert_same(actions, expected):
    assert len({np.asarray(action).tobytes() for action in expected}) > 1, "or nothing was compared"
    for action, other in zip(actions, expected, strict=True):
        assert type(action) is type(other)
        assert np.asarray(action).dtype == np.asarray(other).dtype
        np.testing.assert_allclose(action, other, atol=1e-5)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("name", SPACES)
def test_actions_are_those_in_the_environment(name, memory, tmp_path):
    env, toys = make_toy(name)
    policy = save_policy(tmp_path / "x.ckpt", env, memory)
    rollout = rollout_of(env, policy, 37)  # two trials of 13 steps with four episodes each, and most of a third
    observations, masks, expected = zip(*toys[0].steps, strict=True)
    agent = memo_lightning.load(tmp_path / "x.ckpt")
    actions = replay(agent, rollout, observations, masks if name == "masked" else None)
    assert_same(actions, expected)
    assert (agent.observation_space, agent.action_space) == SPACES[name]
    assert agent.spec.interface.as_plain() == interface_of(env).as_plain()
    assert all(agent.action_space.contains(action) for action in actions)
    if name == "nested":  # actions are continuous, so every input changes them
        for key in ("reward", "episode_end"):
            told = rollout.clone()
            told["next", key] = ~told["next", key] if key == "episode_end" else told["next", key] + 1
            difference = np.abs(np.subtract(replay(agent, told, observations), expected))
            assert difference[~rollout["is_init"][0, :, 0].numpy()].min() > 1e-5, key


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("settings", [{}, {"normalize_observations": True, "normalize_rewards": True}])
def test_actions_are_those_in_dark_key_to_door(memory, settings, make_env, tmp_path):
    env, actions, expected = make_env(1, 0), [], []
    for seed in range(4):
        policy = save_policy(tmp_path / "x.ckpt", env, memory, seed=seed, **settings)
        rollout = rollout_of(env, policy, 30)
        observations = rollout["observation", "observation"][0].numpy()
        agent = memo_lightning.load(tmp_path / "x.ckpt")
        actions += replay(agent, rollout, observations)
        expected += rollout["action"][0].tolist()
    assert_same(actions, expected)


def test_sampled_actions_come_as_often_as_the_policy_says(make_env, tmp_path):
    env, n = make_env(1, 0), 20_000
    policy = save_policy(tmp_path / "x.ckpt", env)
    step = env.reset()
    agent = memo_lightning.load(tmp_path / "x.ckpt", seed=0)
    observations = step["observation", "observation"].expand(n, -1).numpy()
    actions, _ = agent.act(observations, agent.initial_state(n))
    starts = policy.memory_starts(step)
    hidden, _ = policy.sequence_model.step(policy.encode(step), policy.sequence_model.init_state(1), starts)
    probabilities = policy.actor.get_dist(policy.head_inputs(hidden, step)).probs[0].detach().numpy()
    assert probabilities.max() > 1.2 * probabilities.min(), "or any frequencies would do"
    np.testing.assert_allclose(np.bincount(actions) / n, probabilities, atol=0.015)


def test_a_policy_that_does_not_know_the_reward_is_not_moved_by_it(tmp_path):
    env, toys = make_toy("nested", with_reward=False)
    policy = save_policy(tmp_path / "x.ckpt", env, observes_reward=False)
    rollout = rollout_of(env, policy, 20)
    observations, _, expected = zip(*toys[0].steps, strict=True)
    rollout["next", "reward"] += 5
    assert_same(replay(memo_lightning.load(tmp_path / "x.ckpt"), rollout, observations), expected)


@pytest.mark.parametrize("name", SPACES)
def test_a_batch_acts_as_agents_of_their_own(name, tmp_path):
    env, _ = make_toy(name)
    save_policy(tmp_path / "x.ckpt", env)
    rng, n_steps = np.random.default_rng(0), 24
    observation_space, action_space = SPACES[name]
    observation_space.seed(0)
    observations = [[observation_space.sample() for _ in range(3)] for _ in range(n_steps)]
    rewards, ends = rng.normal(size=(n_steps, 3)), rng.random((n_steps, 3)) < 0.2
    first = np.zeros((n_steps, 3), bool)
    first[7, 1] = first[12, 0] = first[13, 2] = first[20, 1] = True
    masks = rng.random((n_steps, 3, 4)) < 0.5
    masks[..., 2] = True

    def given(t, index=slice(None)):
        mask = {"action_mask": masks[t, index]} if name == "masked" else {}
        return {"reward": rewards[t, index], "episode_end": ends[t, index], "is_first": first[t, index], **mask}

    agent, separate = memo_lightning.load(tmp_path / "x.ckpt"), []
    for index in range(3):
        alone, actions = memo_lightning.load(tmp_path / "x.ckpt"), []
        state = alone.initial_state()
        for t in range(n_steps):
            action, state = alone.act(observations[t][index], state, deterministic=True, **given(t, index))
            actions.append(action)
        separate.append(actions)
    state = agent.initial_state(3)
    for t in range(n_steps):
        together, state = agent.act(stack(observations[t]), state, deterministic=True, **given(t))
        assert together.shape == (3, *action_space.shape)
        assert together.dtype == action_space.dtype
        np.testing.assert_allclose(together, [actions[t] for actions in separate], atol=1e-5)
    assert agent.state_nbytes(state) > 0


def stack(observations):
    """Return a batch of observations with the structure of a single one."""
    first = observations[0]
    if isinstance(first, dict):
        return {key: stack([observation[key] for observation in observations]) for key in first}
    if isinstance(first, tuple):
        return tuple(stack(parts) for parts in zip(*observations, strict=True))
    return np.stack(observations)


@pytest.mark.parametrize("name", SPACES)
def test_without_a_batch_an_action_is_one_of_the_space(name, tmp_path):
    env, _ = make_toy(name)
    save_policy(tmp_path / "x.ckpt", env)
    agent = memo_lightning.load(tmp_path / "x.ckpt")
    mask = {"action_mask": np.ones(4, bool)} if name == "masked" else {}
    action, state = agent.act(agent.observation_space.sample(), agent.initial_state(), **mask)
    assert agent.action_space.contains(action)
    assert type(action) is (int if isinstance(agent.action_space, spaces.Discrete) else np.ndarray)
    assert state.batch_shape == ()
    mask = {name: value[None] for name, value in mask.items()}
    (action,), state = agent.act(stack([agent.observation_space.sample()]), agent.initial_state(1), **mask)
    assert agent.action_space.contains(action)
    assert state.batch_shape == (1,)


def streams():
    """Return the states of all global random number generators."""
    kind, keys, *position = np.random.get_state(legacy=True)  # noqa: NPY002 - it is to be looked at
    return torch.get_rng_state().tolist(), (kind, keys.tolist(), *position), random.getstate()


@pytest.mark.parametrize("name", SPACES)
def test_loading_and_acting_leave_the_callers_random_numbers_alone_and_a_seed_repeats_them(name, tmp_path):
    save_policy(tmp_path / "x.ckpt", make_toy(name)[0])
    observation_space, _ = SPACES[name]
    observation_space.seed(0)
    observations = [stack([observation_space.sample() for _ in range(8)]) for _ in range(4)]
    mask = {"action_mask": np.array([[1, 0, 1, 1]] * 8)} if name == "masked" else {}

    def actions(seed):
        agent = memo_lightning.load(tmp_path / "x.ckpt", seed=seed)
        state, chosen = agent.initial_state(8), []
        for observation in observations:
            action, state = agent.act(observation, state, **mask)
            chosen.append(action.tolist())
        return chosen

    before = streams()
    first = actions(0)
    assert streams() == before
    torch.manual_seed(5)
    assert actions(0) == first
    assert actions(1) != first
    assert actions(None) != actions(None)


def test_a_seed_that_is_none_is_one_line(tmp_path):
    save_policy(tmp_path / "x.ckpt", make_toy("discrete with start")[0])
    for seed in (-1, "a", 0.5):
        with pytest.raises(UserError, match=rf"seed={seed!r}: must be from 0 to 4294967295, or None"):
            memo_lightning.load(tmp_path / "x.ckpt", seed=seed)
    for size in (0, "a", 1.5):
        with pytest.raises(UserError, match=rf"batch_size={size!r}: must be at least 1, or None"):
            memo_lightning.load(tmp_path / "x.ckpt", seed=np.int64(3)).initial_state(size)


def test_masks_are_obeyed_wherever_they_are(tmp_path):
    save_policy(tmp_path / "x.ckpt", make_toy("mask observed")[0])
    agent = memo_lightning.load(tmp_path / "x.ckpt")
    assert [key.name for key in agent.spec.interface.keys] == ["shown"]
    for allowed in range(4):
        mask = np.eye(4, dtype=np.int8)[allowed]
        shown = VECTOR.sample()
        assert agent.act({"shown": shown, "action_mask": mask}, agent.initial_state())[0] == allowed
        state = agent.initial_state()
        assert agent.act({"shown": shown}, state, action_mask=mask)[0] == allowed


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with a finished run that is also registered as a model."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *TINY_TRAINING, "total_frames=640", "run_dir=run"]) == 0
        assert main(["register", "run_dir=run", "name=tiny"]) == 0
    return folder


def test_it_is_found_wherever_it_is_kept(trained, tmp_path, monkeypatch):
    run = trained / "run"
    agents = [memo_lightning.load(source) for source in (run, str(run), run / "checkpoints" / "last.ckpt")]
    agents.append(memo_lightning.load("models:/tiny/1", tracking_uri=f"sqlite:///{trained}/mlflow.db"))
    monkeypatch.chdir(trained)
    agents += [memo_lightning.load(source) for source in ("models:/tiny/1", "run")]
    first, *others = agents
    weights = first.policy.state_dict()
    for agent in others:
        assert agent.policy.state_dict().keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in agent.policy.state_dict().items())
        assert agent.spec.as_plain() == first.spec.as_plain()
    assert (first.training["frames"], first.training["config"]["model"]["d_model"]) == (640, 16)
    assert first.training["mlflow_run_id"]
    assert not first.policy.training
    assert first.device == torch.device("cpu")


def test_settings_of_the_memory_can_be_changed(trained):
    agent = memo_lightning.load(trained / "run", model={"memory_budget": 14})
    assert agent.policy.sequence_model.memory_budget == 14
    assert agent.spec.memory["memory_budget"] == 14


ACT = """
import sys
import numpy as np
import memo_lightning
agent = memo_lightning.load(sys.argv[1])
state, actions = agent.initial_state(), []
for t in range(12):
    observation = np.linspace(-1, 1, 12, dtype=np.float32) * t
    action, state = agent.act(observation, state, reward=t / 10, deterministic=True)
    actions.append(action)
print(actions)
print([name for name in ("lightning", "hydra", "omegaconf", "mlflow", "optuna") if name in sys.modules])
"""


def test_a_fresh_process_needs_nothing_of_training(trained):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ACT, str(trained / "run")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    said, imported = result.stdout.splitlines()
    assert imported == "[]"
    agent = memo_lightning.load(trained / "run")
    state, actions = agent.initial_state(), []
    for t in range(12):
        observation = np.linspace(-1, 1, 12, dtype=np.float32) * t
        action, state = agent.act(observation, state, reward=t / 10, deterministic=True)
        actions.append(action)
    assert said == str(actions)


def test_a_setting_that_is_newer_than_the_checkpoint_can_be_changed():
    name = "dark-key-to-door"  # from before there was max_summary_age
    assert "max_summary_age" not in memo_lightning.load(name).spec.memory
    agent = memo_lightning.load(name, model={"max_summary_age": 3})
    assert agent.policy.sequence_model.max_summary_age == 3


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("nowhere", {}, "nowhere: no such file"),
        (".", {}, "neither a run (no checkpoints/last.ckpt)"),
        ("run/config.yaml", {}, "not a readable checkpoint"),
        ("models:/tiny/9", {}, "models:/tiny/9: cannot be fetched"),
        ("run", {"device": "abacus"}, "device=abacus: must be cpu or cuda"),
        ("run", {"model": {"colour": 3}}, "model.colour: the checkpoint's memory has no such setting; it has d_model"),
        ("run", {"model": {"d_model": 32}}, "model.d_model=32 (checkpoint: 16)"),
        ("run", {"device": []}, "device=[]: must be cpu or cuda"),
        ("run", {"model": {"memory_budget": 2}}, "memory_budget=2: must be at least 12"),
        ("run", {"model": {"memory_budget": "abc"}}, "model.memory_budget='abc': must be an integer or None"),
        ("run", {"model": {"memory_budget": True}}, "model.memory_budget=True: must be an integer or None"),
        ("run", {"model": {"segment_length": 2.5}}, "model.segment_length=2.5: must be an integer"),
        ("run", {"model": {"n_heads": None}}, "model.n_heads=None: must be an integer"),
        ("run", {"model": {"sink_kv": 1}}, "model.sink_kv=1: must be true or false"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(source, settings, message, trained, monkeypatch):
    monkeypatch.chdir(trained)
    with pytest.raises(UserError) as error:
        memo_lightning.load(source, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_can_name_no_class_but_those_of_policies(trained, tmp_path):
    checkpoint = torch.load(trained / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    for part, message in {"encoder": "policies.Encoder", "memory": "models.SequenceModel"}.items():
        checkpoint["policy_spec"][part]["_target_"], kept = "os.system", checkpoint["policy_spec"][part]["_target_"]
        torch.save(checkpoint, tmp_path / "x.ckpt")
        with pytest.raises(UserError, match=rf"_target_=os\.system: must be a subclass of memo_lightning\.{message}"):
            memo_lightning.load(tmp_path / "x.ckpt")
        checkpoint["policy_spec"][part]["_target_"] = kept


def of_nested(**changes):
    """Return an observation of the nested space, without keys that are changed to None."""
    whole = {
        "body": {"joints": np.zeros(3, np.float32), "gripper": 1},
        "extra": (np.zeros(2, np.int8), np.zeros((2, 2))),
    }
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "nested",
            {"observation": of_nested(body=None)},
            "observation 'body_joints': missing; the observation space has",
        ),
        ("nested", {"observation": np.zeros(3)}, "observation 'body_joints': missing; the observation space has it"),
        (
            "nested",
            {"observation": of_nested(body={"joints": np.zeros(4), "gripper": 1})},
            "observation 'body_joints' has shape (4,); its space says (3,)",
        ),
        (
            "nested",
            {"observation": of_nested(body={"joints": np.zeros(3), "gripper": 3})},
            "observation 'body_gripper' is 3; its space says Discrete(3)",
        ),
        (
            "nested",
            {"observation": of_nested(body={"joints": ["a", "b", "c"], "gripper": 1})},
            "observation 'body_joints' has dtype <U1; its space says float32",
        ),
        ("discrete with start", {"observation": 1}, "observation 'observation' is -1; its space says Discrete(5"),
        (
            "image, channels first",
            {"observation": np.zeros((3, 10, 12), np.float32)},
            "observation 'observation' has dtype float32; its space says uint8",
        ),
        ("masked", {"observation": np.zeros(3)}, "action_mask: missing; the policy was trained with one"),
        (
            "masked",
            {"observation": np.zeros(3), "action_mask": np.ones(5)},
            "action_mask has shape (5,); must be (4,), one value per action",
        ),
        (
            "masked",
            {"observation": np.zeros(3), "action_mask": np.zeros(4)},
            "action_mask allows no action; must allow at least one",
        ),
        (
            "whole numbers",
            {"observation": np.zeros((2, 3))},
            "state has no batch dimension: must come from initial_state",
        ),
        (
            "whole numbers",
            {"observation": np.zeros((2, 3)), "batch_size": 4},
            "state has batch size 4: must come from initial_state(batch_size=2) to match observations of shape (2, 3)",
        ),
        (
            "whole numbers",
            {"observation": np.zeros(3), "batch_size": 4},
            "state has batch size 4: must come from initial_state() to match observations of shape (3,)",
        ),
        ("whole numbers", {"observation": np.zeros(3), "batch_size": 0}, "batch_size=0: must be at least 1, or None"),
        (
            "whole numbers",
            {"observation": np.zeros((2, 3)), "batch_size": 2, "reward": np.zeros(3)},
            "reward has shape (3,): must be a number, or of shape (2,)",
        ),
        (
            "whole numbers",
            {"observation": np.zeros(3), "is_first": np.zeros(3, bool)},
            "is_first has shape (3,): must be a number, or of shape ()",
        ),
        (
            "whole numbers",
            {"observation": np.zeros(3), "action_mask": [True]},
            "action_mask: must be left out, as the policy was trained without one",
        ),
        (
            "whole numbers",
            {"observation": np.array([0, np.nan, 0])},
            "observation 'observation' of environment 0 holds nan: must be finite",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(name, given, message, tmp_path):
    save_policy(tmp_path / "x.ckpt", make_toy(name)[0])
    agent = memo_lightning.load(tmp_path / "x.ckpt")
    given = dict(given)
    with pytest.raises(UserError) as error:
        agent.act(given.pop("observation"), agent.initial_state(given.pop("batch_size", None)), **given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_state_of_another_agent_is_refused(tmp_path):
    env, _ = make_toy("whole numbers")
    agents = []
    for memory in ("memo", "lstm"):
        save_policy(tmp_path / f"{memory}.ckpt", env, memory)
        agents.append(memo_lightning.load(tmp_path / f"{memory}.ckpt"))
    with pytest.raises(UserError, match="state belongs to another model") as error:
        agents[0].act(VECTOR.sample(), agents[1].initial_state())
    assert "\n" not in str(error.value)
