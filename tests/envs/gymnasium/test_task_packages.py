"""Task packages: POPGym and MiniGrid fulfil the contract, and policies are built and trained on them end to end."""

import json

import pytest
import torch
from torchrl.envs import check_env_specs

from memo_lightning.cli.main import main
from memo_lightning.envs.gymnasium import GymnasiumEnv

POPGYM = [
    "RepeatPreviousEasy",  # Discrete
    "AutoencodeEasy",  # Tuple
    "CountRecallEasy",  # MultiDiscrete
    "PositionOnlyCartPoleEasy",  # Box
    "HigherLowerEasy",
    "ConcentrationEasy",
    "BattleshipEasy",
    "MineSweeperEasy",
    "PositionOnlyPendulumEasy",  # continuous actions
]


@pytest.mark.parametrize("name", POPGYM)
def test_popgym_tasks_keep_the_contract(name):
    env = GymnasiumEnv(n_envs=2, id=f"popgym:popgym-{name}-v0", trial_length=104, episodes_per_trial=1)
    check_env_specs(env)
    env.set_seed(1)
    torch.manual_seed(0)
    steps = env.rollout(104, break_when_any_done=False)
    env.set_seed(1)
    torch.manual_seed(0)
    again = env.rollout(104, break_when_any_done=False)
    assert torch.equal(steps["next", "reward"], again["next", "reward"]), "seeded"
    assert steps["next", "done"].any(1).all()


def train(*overrides):
    tiny = ["total_frames=320", "collector.n_envs=8", "model.d_model=16", "model.d_ff=32", "algorithm.n_minibatches=2"]
    assert main(["train", *tiny, "logger=none", "run_dir=run", *overrides]) == 0


def test_minigrid_memory_trains_on_images_and_is_filmed(in_tmp_dir):
    train("experiment=minigrid_memory", "env.trial_length=20", "env.episode_length=10", "model.segment_length=5")
    metrics = json.loads((in_tmp_dir / "run" / "metrics.json").read_text())
    assert metrics["env"] == "minigrid:MiniGrid-MemoryS7-v0"
    arguments = ["checkpoint=run/checkpoints/last.ckpt", "n_trials=2", "n_envs=2", "render=true"]
    assert main(["evaluate", *arguments]) == 0
    assert (in_tmp_dir / "run" / "evaluation" / "trial.mp4").stat().st_size > 1000


def test_pendulum_without_velocity_trains_with_continuous_actions(in_tmp_dir):
    train("experiment=pendulum_hidden_velocity", "env.trial_length=20", "model.segment_length=5")
    assert main(["evaluate", "checkpoint=run/checkpoints/last.ckpt", "n_trials=2", "n_envs=2"]) == 0
    metrics = json.loads((in_tmp_dir / "run" / "evaluation" / "evaluation.json").read_text())
    assert metrics["return_per_trial"] < 0
