"""Environments that seed global random numbers do not affect policy or learner, and are detected."""

import re
from pathlib import Path

import pytest
import torch

from collecting import collect
from memo_lightning.cli.main import main
from memo_lightning.config import compose_config
from memo_lightning.envs.build import build_env
from memo_lightning.envs.global_streams import GlobalStreams
from memo_lightning.evaluation.trials import acting, run_trials


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


def build(target, n_envs=2, seed=0):
    same_task = [] if "Reset" in target else ["+env.same_task=seed", "+env.episodes_per_trial=null"]
    config = compose_config("train", ["env=custom", f"env.target=own_envs:{target}", "env.trial_length=20", *same_task])
    return build_env(config.env, n_envs, seed)


def acted(env, policy):
    """Return the actions of five four-step episodes in two environments."""
    (chunk,) = collect(env, policy, 20)
    return chunk["steps", "action"].view(2, 5, 4)


def test_episodes_with_one_seed_are_not_acted_alike(make_policy):
    """A sampling policy acts differently in each of five episodes of a trial that are reset with the same seed."""
    env = build("SeedsTorch")
    policy = make_policy(env)
    actions = acted(env, policy)
    assert all(len(episodes.unique(dim=0)) > 2 for episodes in actions)
    assert torch.equal(acted(build("Guess"), policy), actions), "nothing else is different either"
    assert torch.equal(acted(build("SeedsTorch"), policy), actions), "and it is repeatable"


def test_neither_are_those_of_an_evaluation(make_policy):
    trials = []
    for name in ("SeedsTorch", "Guess"):
        env = build(name)
        taken, policy = [], make_policy(env)
        policy.register_forward_hook(lambda *args, taken=taken: taken.append(args[2]["action"].clone()))
        with acting(deterministic=False):
            run_trials(env, policy.eval(), 2, 20, seed=1)
        trials.append(torch.stack(taken, 1).view(2, 5, 4))
    assert all(len(episodes.unique(dim=0)) > 2 for episodes in trials[0])
    assert torch.equal(*trials)


@pytest.mark.parametrize("target", ["SeedsTorch", "SeedsTorchInReset"])
def test_building_seeding_and_stepping_leave_the_numbers_of_others_alone(target):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    env = build(target)
    env.set_seed(4)
    env.rollout(5, lambda td: td.set("action", env.action_spec.zero()), break_when_any_done=False)
    assert torch.equal(torch.rand(3), expected)


def test_an_environment_draws_from_a_stream_of_its_own_that_its_seed_decides():
    streams = GlobalStreams(7)
    drawn = []
    for _ in range(2):
        with streams.in_use():
            drawn.append(torch.rand(2))
    generator = torch.Generator().manual_seed(7)
    assert torch.equal(torch.cat(drawn), torch.rand(4, generator=generator))
    streams.seed(7)
    with streams.in_use():
        assert torch.equal(torch.rand(2), drawn[0])


@pytest.mark.parametrize(
    ("target", "named"), [("SeedsTorch", "torch"), ("SeedsNumpy", "numpy"), ("SeedsTorchInReset", "torch")]
)
def test_check_env_finds_them(target, named, capsys):
    arguments = ["check-env", "env=custom", f"env.target=own_envs:{target}", "env.trial_length=8"]
    assert main([*arguments, "collector.n_envs=8"]) == 2
    output = capsys.readouterr().out
    assert re.search(rf"WRONG +random numbers +a reset or step seeds or draws .* of {named}, .*self\.np_random", output)


def test_check_env_finds_nothing_in_those_that_have_their_own(capsys):
    arguments = ["check-env", "env=custom", "env.target=own_envs:Guess", "env.trial_length=8"]
    assert main([*arguments, "collector.n_envs=8"]) == 0
    assert re.search(r"ok +random numbers", capsys.readouterr().out)
