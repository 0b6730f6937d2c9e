"""The off-policy actor-critic in real runs: every memory and kind of action, one pass per update, fresh memories."""

import json
import shutil

import gymnasium
import lightning
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from memo_lightning.algorithms import ActorCritic
from memo_lightning.cli.main import main
from memo_lightning.config import build, compose_config, config_dir
from memo_lightning.errors import UserError
from memo_lightning.policies.action import Action
from memo_lightning.policies.heads import ExploringHeads
from memo_lightning.training.train import train
from tiny import TINY_OFF_POLICY

BASELINES = sorted({path.stem for path in (config_dir() / "baseline").glob("*.yaml")} - {"custom"})
TINY = [*TINY_OFF_POLICY, "total_frames=960", "logger=none", "run_dir=run"]
ACTIONS = {
    "Box": spaces.Box(-1.0, 2.0, (2,)),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "MultiBinary": spaces.MultiBinary(2),
}


class Likes(gymnasium.Env):
    """Rewards large actions; a mask, if any, forbids the largest at every third of seven steps."""

    observation_space = spaces.Dict(
        vector=spaces.Box(-5, 5, (3,), np.float32), image=spaces.Box(0, 255, (8, 8, 3), np.uint8)
    )

    def __init__(self, action="Box", masked=False):
        self.masked = masked
        self.action_space = spaces.Discrete(3) if masked else ACTIONS[action]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observe()

    def step(self, action):
        assert not (self.masked and self.t % 3 == 0 and action == 2), "a forbidden action"
        self.t += 1
        observation, info = self._observe()
        return observation, float(np.mean(action)), False, self.t == 7, info

    def _observe(self):
        mask = {"action_mask": np.array([1, 1, self.t % 3 != 0])} if self.masked else {}
        vector, image = np.full(3, self.t / 2, np.float32), np.full((8, 8, 3), self.t, np.uint8)
        return {"vector": vector, "image": image}, mask


gymnasium.register("tests/Likes-v0", Likes)


class Recorder(lightning.Callback):
    """Records what was learned and how often each part of the policy ran for it."""

    def __init__(self):
        self.metrics, self.passes = [], []

    def on_train_start(self, trainer, pl_module):
        policy = pl_module.policy
        for module in (policy.sequence_model, policy.encoder):
            module.register_forward_hook(lambda *_: self.passes.append(1))

    def on_train_batch_start(self, *_):
        self.passes.clear()  # passes made while acting

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.metrics[-1]["passes"] = len(self.passes)


def run(*overrides):
    recorder = Recorder()
    train(compose_config("train", [*TINY, *overrides]), callbacks=[recorder])
    return recorder.metrics


@pytest.mark.parametrize("name", BASELINES)
def test_every_memory_trains_and_its_checkpoint_acts(name, in_tmp_dir):
    assert main(["train", *TINY, f"baseline={name}", "collector.n_chunks=2"]) == 0
    assert json.loads((in_tmp_dir / "run" / "metrics.json").read_text())["frames"] == 960
    assert main(["evaluate", "checkpoint=run", "n_trials=4", "trial_multiplier=2"]) == 0


@pytest.mark.parametrize("setting", [*(f"action={name}" for name in ACTIONS), "masked=true"])
@pytest.mark.parametrize("cross_episode_returns", ["true", "false"])
def test_every_kind_of_action_trains_with_limits_within_and_at_the_end_of_trials(
    setting, cross_episode_returns, in_tmp_dir
):
    env = ["env=gymnasium", "env.id=tests/Likes-v0", f"env.settings.{setting}", "env.trial_length=18"]
    normalize = ["env.normalize_observations=true", "env.normalize_rewards=true"]
    own = ["env.episodes_per_trial=null", f"algorithm.cross_episode_returns={cross_episode_returns}"]
    sizes = ["model.segment_length=6", "collector.rollout_length=40", "total_frames=960"]
    given = [word for word in TINY if not word.startswith(("env.", "debug="))]
    recorder = Recorder()
    train(compose_config("train", [*given, *env, *normalize, *own, *sizes]), callbacks=[recorder])
    last = recorder.metrics[-1]
    assert last["update/skipped"] == 0
    assert np.isfinite(list(last.values())).all()
    assert main(["evaluate", "checkpoint=run", "n_trials=2"]) == 0


@pytest.mark.parametrize("name", ["t_maze", "darkroom", "many_rooms"])
def test_own_environments_train(name, in_tmp_dir):
    lengths = {"t_maze": [], "many_rooms": ["env.episode_length=5"], "darkroom": ["env.episode_length=5"]}[name]
    given = [word for word in TINY if not word.startswith("env.")]
    assert main(["train", *given, f"env={name}", "env.trial_length=20", *lengths, "total_frames=640"]) == 0


@pytest.mark.parametrize("experiment", ["dark_key_to_door", "t_maze", "pendulum"])
def test_experiments_are_made_of_settings_that_fit(experiment):
    config = compose_config("train", [f"experiment={experiment}_off_policy"])
    assert isinstance(build(config.algorithm), ActorCritic)


def test_an_update_runs_encoder_and_memory_once(in_tmp_dir):
    metrics = run()
    assert [m["passes"] for m in metrics] == [0, 2 * 3, 2 * 3], "each once for every update"


def test_updates_follow_the_frames_from_a_number_of_frames_on(in_tmp_dir):
    metrics = run("algorithm.updates_per_frame=0.013", "algorithm.learning_starts=500")
    assert [m["update/updates"] for m in metrics] == [0, int(0.013 * 140), int(0.013 * 460)]
    assert [round(m["replay/fill"] * 20) for m in metrics] == [8, 16, 20]


def test_a_resumed_run_follows_a_new_number_of_updates_from_there_on(in_tmp_dir):
    (first,) = run("algorithm.updates_per_frame=0.02", "algorithm.learning_starts=0", "total_frames=320")[-1:]
    assert first["update/updates"] == int(0.02 * 320)
    for rate, more in ((0.1, 32), (0.005, 2)):  # 0.4 of an update was still to be made
        shutil.copytree("run", f"run-{rate}")
        overrides = ["resume=run-" + str(rate), f"algorithm.updates_per_frame={rate}", "total_frames=640"]
        assert main(["train", *overrides]) == 0
        learner = torch.load(f"run-{rate}/checkpoints/last.ckpt", weights_only=True)
        assert learner["algorithm"]["n_updates"] == 6 + more


def test_metrics_tell_of_every_discount_and_of_the_replay(in_tmp_dir):
    last = run("algorithm.gamma=0.9", "algorithm.other_gammas=[0.5]")[-1]
    for gamma in (0.9, 0.5):
        assert last[f"update/critic_loss_gamma_{gamma}"] > 0
        assert last[f"popart/deviation_gamma_{gamma}"] > 0
        assert f"popart/mean_gamma_{gamma}" in last
    assert 0 <= last["update/cloned_fraction"] <= 1
    assert last["replay/trials"] == 20
    assert last["wall_clock/updates_per_second"] > 0
    assert "update/actor_loss" in last


@pytest.mark.parametrize(("max_staleness", "seen"), [(0, 0.0), (5, 4.0)])
def test_memories_of_running_trials_are_as_stale_as_is_allowed(max_staleness, seen, in_tmp_dir):
    """Each of four chunks has two updates, so a memory may be four updates behind if five are allowed."""
    metrics = run(
        "collector.n_chunks=4", "algorithm.updates_per_frame=0.025", f"algorithm.max_staleness={max_staleness}"
    )
    assert metrics[-1]["replay/memory_staleness"] == seen


def test_the_fraction_of_random_actions_falls_over_the_frames(in_tmp_dir):
    changes = ["random_actions=0.8", "random_actions_end=0.2", "random_actions_frames=640"]
    metrics = run(*(f"algorithm.{change}" for change in changes))
    assert [m["replay/random_actions"] for m in metrics] == pytest.approx([0.5, 0.2, 0.2])


def test_random_actions_are_uniform_over_those_allowed_and_only_in_training():
    torch.manual_seed(0)
    heads = ExploringHeads(4, Action(spaces.Discrete(4), masked=True))
    torch.nn.init.zeros_(heads.actor[0].module.weight)
    heads.actor[0].module.bias.data.copy_(torch.tensor([0.0, 100.0, 0.0, 0.0]))  # always the second
    mask = torch.tensor([True, True, False, True]).expand(3000, 4)
    step = TensorDict({"hidden": torch.zeros(3000, 4), "action_mask": mask}, [3000])

    def counts():
        with set_exploration_type(ExplorationType.RANDOM):
            return torch.bincount(heads(step.clone())["action"], minlength=4) / 3000

    assert counts().tolist() == [0, 1, 0, 0]
    heads.random_fraction.fill_(0.6)
    torch.testing.assert_close(counts(), torch.tensor([0.2, 0.6, 0.0, 0.2]), atol=0.03, rtol=0)
    heads.eval()
    assert counts().tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.gamma=1.0", "algorithm.gamma=1.0: must be at least 0 and below 1"),
        ("algorithm.other_gammas=[0.95]", "algorithm.other_gammas=[0.95]: must be different from each other and from"),
        ("algorithm.other_gammas=[a]", "algorithm.other_gammas='a': must be at least 0 and below 1"),
        ("algorithm.n_minimum=5", "algorithm.n_minimum=5: must be from 1 to algorithm.n_critics=4"),
        ("algorithm.updates_per_frame=0", "algorithm.updates_per_frame=0: must be greater than 0"),
        ("algorithm.tau=0", "algorithm.tau=0: must be greater than 0 and at most 1"),
        ("algorithm.random_actions=2", "algorithm.random_actions=2: must be between 0 and 1"),
        ("algorithm.replay.capacity_trials=2", "capacity_trials=2: must be at least algorithm.replay.batch_size=4"),
        ("algorithm.replay.trial_length=10", "algorithm.replay.trial_length=10: must be at least 40"),
        ("algorithm.n_epochs=2", "unknown override 'algorithm.n_epochs': exists only with algorithm=ppo"),
    ],
)
def test_what_does_not_fit_is_one_line(override, message, in_tmp_dir, capsys):
    assert main(["train", *TINY, "callbacks.progress=null", override]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(in_tmp_dir, capsys):
    assert main(["train", *TINY, "algorithm.replay.capacity_trials=1000000000000"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "algorithm.replay.capacity_trials=1000000000000: must be at most " in line
    assert ", as it takes " in line
    assert not (in_tmp_dir / "run").exists()


def test_the_replay_may_be_elsewhere_and_is_never_that_of_another_run(in_tmp_dir, capsys):
    elsewhere = "algorithm.replay.folder=scratch/trials"
    assert main(["train", *TINY, elsewhere]) == 0
    assert (in_tmp_dir / "scratch/trials/rank0/replay.json").exists()
    assert not (in_tmp_dir / "run/replay").exists()
    capsys.readouterr()
    assert main(["train", *TINY, elsewhere, "run_dir=other"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "algorithm.replay.folder=scratch/trials: must be empty or new" in line


def test_worker_processes_fill_the_replay_too(in_tmp_dir):
    """One rollout of two workers; the workers themselves are tested elsewhere."""
    metrics = run("collector=multi_sync", "collector.n_workers=2", "algorithm.learning_starts=0", "total_frames=320")
    assert metrics[-1]["replay/trials"] == 8
    assert metrics[-1]["update/updates"] == 3


def test_it_needs_the_heads_that_explore():
    with pytest.raises(UserError, match="must be memo_lightning"):
        build({**compose_config("train", TINY).algorithm, "replay": {"_target_": "builtins.dict"}})
