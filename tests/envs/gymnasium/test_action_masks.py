"""Action masks: forbidden actions are never taken, and log-probabilities cover allowed actions only."""

from dataclasses import replace
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type
from toys import Picky

from memo_lightning.algorithms import PPO
from memo_lightning.cli.main import main
from memo_lightning.config import build, compose_config
from memo_lightning.data import RolloutDataModule
from memo_lightning.envs.build import build_env
from memo_lightning.envs.gymnasium import GymnasiumEnv
from memo_lightning.envs.interface import interface_of
from memo_lightning.errors import UserError
from memo_lightning.policies import Agent, PolicySpec
from memo_lightning.policies.action import Action
from memo_lightning.policies.heads import build_actor
from tiny import MEMO

TAXI = "Taxi-v3" if "Taxi-v3" in gymnasium.registry else "Taxi-v4"  # the version that is not deprecated
ONE, SEVERAL = spaces.Discrete(5, start=2), spaces.MultiDiscrete([3, 4])
MAKERS = {
    "taxi": (partial(gymnasium.make, TAXI), [6]),
    "info": (partial(Picky, ONE), [5]),
    "observation": (partial(Picky, ONE, where="observation"), [5]),
    "several, in info": (partial(Picky, SEVERAL), [3, 4]),
    "several, in the observation": (partial(Picky, SEVERAL, where="observation"), [3, 4]),
}
MEMORY = {**MEMO, "segment_length": 10}


def make(name, workers=0, n_envs=8):
    target = "memo_lightning.envs.gymnasium.GymnasiumEnv"
    config = {"_target_": target, "make": MAKERS[name][0], "trial_length": 50, "episodes_per_trial": None}
    return build_env({**config, "workers": workers}, n_envs, 0)


def policy_for(env):
    torch.manual_seed(0)
    encoder = {"_target_": "memo_lightning.policies.ObservationEncoder"}
    spec = PolicySpec(interface_of(env), encoder, MEMORY, "memo_lightning.policies.heads.ActorCriticHeads")
    policy = spec.build()
    torch.nn.init.normal_(policy.actor[0].module.weight)
    return spec, policy


def is_allowed(steps, sizes):
    """Return bool [..., k]: whether each component of the action was allowed."""
    masks = steps["action_mask"].split(sizes, -1)
    components = steps["action"].view(*steps.batch_size, len(sizes)).unbind(-1)
    taken = [mask.gather(-1, component.unsqueeze(-1)) for mask, component in zip(masks, components, strict=True)]
    return torch.cat(taken, -1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_no_forbidden_action_is_sampled_in_two_thousand_steps(name, workers):
    env, sizes = make(name, workers), MAKERS[name][1]
    assert env.observation_spec["action_mask"].shape == (8, sum(sizes))
    assert "action_mask" not in env.observation_spec["observation"].keys()
    _, policy = policy_for(env)
    steps = env.rollout(250, policy, break_when_any_done=False)
    assert steps.numel() == 2000
    assert is_allowed(steps, sizes).all()
    assert 0.2 < steps["action_mask"].float().mean() < 0.9
    random = torch.stack([env.action_spec.rand() for _ in range(250)], 1)
    assert not is_allowed(steps.clone().set("action", random), sizes).all(), "as random actions are not"
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert is_allowed(env.rollout(20, policy, break_when_any_done=False), sizes).all()
    env.close()


@pytest.mark.parametrize("name", ["info", "several, in the observation"])
def test_results_do_not_depend_on_the_number_of_workers(name):
    expected, got = (
        env.rollout(40, policy_for(env)[1].requires_grad_(False), break_when_any_done=False)
        for env in (make(name), make(name, workers=3))
    )
    for key in expected.keys(True, True):
        assert torch.equal(expected[key], got[key]), key


@pytest.mark.parametrize("sizes", [[6], [3, 4]])
def test_log_probs_and_entropy_are_those_over_the_allowed_actions(sizes):
    torch.manual_seed(0)
    space = spaces.Discrete(6) if len(sizes) == 1 else spaces.MultiDiscrete(sizes)
    actor = build_actor(8, Action(space, masked=True))
    mask = torch.rand(40, sum(sizes)) < 0.4
    for part in mask.split(sizes, -1):
        part[torch.arange(40), torch.randint(part.shape[-1], (40,))] = True
    td = TensorDict({"hidden": torch.randn(40, 8), "action_mask": mask}, [40])
    td = actor(td)
    distribution = actor.get_dist(td)
    log_prob, entropy = distribution.log_prob(td["action"]), distribution.entropy()
    logits, actions = actor[0].module(td["hidden"]), td["action"].view(40, -1)
    expected_log_prob, expected_entropy = torch.zeros(40), torch.zeros(40)
    for n in range(40):
        for component, (part, allowed) in enumerate(zip(logits[n].split(sizes), mask[n].split(sizes), strict=True)):
            weights = {a: part[a].exp() for a in range(len(part)) if allowed[a]}
            probabilities = {a: weight / sum(weights.values()) for a, weight in weights.items()}
            expected_log_prob[n] += probabilities[int(actions[n, component])].log()
            expected_entropy[n] -= sum(p * p.log() for p in probabilities.values())
    torch.testing.assert_close(log_prob, expected_log_prob)
    torch.testing.assert_close(td["action_log_prob"], expected_log_prob)
    torch.testing.assert_close(entropy, expected_entropy)

    ours, naive = (
        torch.autograd.grad((a + b).sum(), actor[0].module.weight, retain_graph=True)[0]
        for a, b in ((log_prob, entropy), (expected_log_prob, expected_entropy))
    )
    torch.testing.assert_close(ours, naive)


@pytest.mark.parametrize("name", ["info", "several, in info"])
def test_an_update_sees_the_masks_that_acting_saw(name):
    data = RolloutDataModule(
        lambda n_envs, seed: make(name), n_envs=8, rollout_length=30, n_chunks=1, total_frames=240, seed=0
    )
    _, policy = policy_for(data.env)
    chunk = next(iter(data._build_collector(policy, 0)))
    rollout = chunk["steps"]
    algorithm: PPO = build(compose_config("train").algorithm)
    algorithm.attach(policy, data)
    as_acting = policy.sequence_model.acting_pass()
    experience = algorithm.prepare(policy, rollout, chunk["after"], lambda: as_acting)
    loss, metrics = algorithm.loss(policy, replace(experience, pass_settings=as_acting))
    assert metrics["kl"].abs() < 1e-5
    heads = policy.head_inputs(policy.hidden(rollout, **as_acting), rollout)
    torch.testing.assert_close(metrics["entropy"], policy.actor.get_dist(heads).entropy().mean())
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in policy.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("name", ["info", "observation"])
def test_an_agent_obeys_the_mask_and_says_when_it_lacks_one(name):
    env = make(name, n_envs=1)
    spec, policy = policy_for(env)
    agent, raw = Agent(spec, policy, {}), MAKERS[name][0]()
    observation, info = raw.reset(seed=0)
    state = agent.initial_state()
    for _ in range(9):
        action, state = agent.act(observation, state, action_mask=info.get("action_mask"))
        observation, *_, info = raw.step(action)  # raises at a forbidden action
    observation.pop("action_mask", None)
    with pytest.raises(UserError, match="action_mask: missing; the policy was trained with one"):
        agent.act(observation, state)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("where", ["info", "observation"])
@pytest.mark.parametrize(
    ("space", "fault", "message"),
    [
        (ONE, "shape", r"step 3 of the trial: action_mask has shape \(4,\); must be \(5,\), one value per action"),
        (ONE, "none", r"step 3 of the trial: action_mask allows no action; must allow at least one"),
        (
            SEVERAL,
            "none",
            r"step 3 of the trial: action_mask allows no action for component 1; must allow at least one",
        ),
        (ONE, "missing", r"no action_mask at step 3; the first reset had one"),
    ],
)
def test_a_mask_that_cannot_be_is_one_line_that_names_environment_and_step(space, fault, message, where, workers):
    maker = partial(Picky, space, where=where, fault=fault)
    env = GymnasiumEnv(n_envs=2, make=maker, trial_length=20, workers=workers)
    with pytest.raises(UserError, match=rf"^environment 0 \(<Picky instance>\): {message}$"):
        env.rollout(5, lambda td: td.set("action", first_allowed(td["action_mask"], space)))
    env.close()


def first_allowed(mask, space):
    if space is ONE:
        return mask.long().argmax(-1)
    return torch.stack([part.long().argmax(-1) for part in mask.split(space.nvec.tolist(), -1)], -1)


def test_where_a_trial_has_ended_no_action_need_be_allowed():
    class Ends(Picky):
        def step(self, action):
            observation, reward, terminated, truncated, info = super().step(action)
            if terminated:
                info["action_mask"] = np.zeros(5, np.int8)
            return observation, reward, terminated, truncated, info

    env = GymnasiumEnv(n_envs=1, make=partial(Ends, ONE), trial_length=20, episodes_per_trial=1)
    steps = env.rollout(
        20, lambda td: td.set("action", first_allowed(td["action_mask"], ONE)), break_when_any_done=False
    )
    assert steps["next", "done"].sum() == 2


def test_continuous_actions_have_no_mask():
    with pytest.raises(UserError, match=r"action_mask: .* is continuous; only discrete actions have a mask"):
        Action(spaces.Box(-1, 1, (2,)), masked=True)


def test_check_env_passes(capsys):
    assert main(["check-env", "env=gymnasium", f"env.id={TAXI}", "collector.n_envs=8"]) == 0
    output = capsys.readouterr().out
    assert "one of 6, some of them masked" in output
    assert "WRONG" not in output
