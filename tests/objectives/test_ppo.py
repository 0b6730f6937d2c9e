"""PPO on whole rows: the published loss, the trunk run once, rows kept whole."""

import pytest
import torch

from memo_lightning.errors import UserError
from memo_lightning.objectives import PPO

SETTINGS = {
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "clip_epsilon": 0.1,
    "entropy_coef": 0.03,
    "value_coef": 0.7,
    "n_epochs": 1,
    "n_minibatches": 2,
    "normalize_advantage": True,
    "learning_rate": 1e-3,
    "max_grad_norm": 0.5,
}


@pytest.fixture
def setup(make_env, make_policy):
    env = make_env(6, 0)
    policy = make_policy(env).eval()
    torch.nn.init.normal_(policy.actor[0].module.weight)
    with torch.no_grad():
        rollout = env.rollout(20, policy, break_when_any_done=False)
    algorithm = PPO(**SETTINGS)
    algorithm.attach(policy)
    return policy, algorithm, rollout


def test_loss_is_the_published_one(setup):
    policy, algorithm, rollout = setup
    rows = algorithm.prepare(policy, rollout)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn_like(parameter)  # ratios on both sides of the clip range
    loss, metrics = algorithm.loss(policy, rows)

    hidden = policy.hidden(rollout)
    logits, value = policy.actor[0].module(hidden), policy.critic.module(hidden)
    log_probs = logits.log_softmax(-1)
    log_prob = log_probs.gather(-1, rollout["action"].unsqueeze(-1)).squeeze(-1)
    ratio = (log_prob - rollout["action_log_prob"]).exp()
    advantage = rows["advantage"].squeeze(-1)
    advantage = (advantage - advantage.mean()) / advantage.std()
    policy_loss = -torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage).mean()
    value_loss = 0.7 * (value - rows["value_target"]).square().mean()
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    assert ((ratio < 0.9) | (ratio > 1.1)).any()
    torch.testing.assert_close(loss, policy_loss + value_loss - 0.03 * entropy, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(metrics["entropy"], entropy.detach(), atol=1e-4, rtol=1e-4)


def test_gradient_reaches_the_trunk_and_the_trunk_runs_once(setup):
    policy, algorithm, rollout = setup
    calls = []
    policy.sequence_model.register_forward_hook(lambda *_: calls.append(1))
    loss, _ = algorithm.loss(policy, algorithm.prepare(policy, rollout))
    calls_for_loss = len(calls) - 1  # one more bootstrapped the rows, which end in the middle of a trial
    loss.backward()
    assert calls_for_loss == 1
    assert all(parameter.grad is not None for parameter in policy.parameters())
    assert policy.sequence_model.summary_queries.grad.abs().sum() > 0
    assert policy.encoder.projection.weight.grad.abs().sum() > 0


def test_rows_that_end_within_a_trial_are_bootstrapped(make_env, make_policy):
    env = make_env(4, 0)
    policy = make_policy(env).eval()
    algorithm = PPO(**{**SETTINGS, "gae_lambda": 0.0})
    with torch.no_grad():
        long = env.rollout(12, policy, break_when_any_done=False)
    assert long["next", "done"][:, -1].all()
    cut = long[:, :7].clone()
    advantage = algorithm.prepare(policy, cut)["advantage"]
    expected = algorithm.prepare(policy, long)["advantage"][:, :7]
    torch.testing.assert_close(advantage, expected, atol=1e-5, rtol=1e-5)


def test_minibatches_hold_every_whole_row_once(setup):
    policy, algorithm, rollout = setup
    rollout["action_log_prob"] = torch.arange(6.0).unsqueeze(1).expand(6, 20).clone()
    minibatches = list(algorithm.minibatches(algorithm.prepare(policy, rollout)))
    assert [minibatch.shape for minibatch in minibatches] == [(3, 20), (3, 20)]
    rows = torch.cat([minibatch["action_log_prob"] for minibatch in minibatches])
    assert (rows == rows[:, :1]).all()
    assert sorted(rows[:, 0].tolist()) == list(range(6))
    with pytest.raises(UserError, match="n_minibatches=2: must be at most the 1 rows"):
        algorithm.check_rows(1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("gamma", 1.1),
        ("gae_lambda", -0.1),
        ("clip_epsilon", 0),
        ("learning_rate", 0),
        ("max_grad_norm", -1),
        ("value_coef", -1),
        ("n_epochs", 0),
    ],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(UserError, match=f"algorithm.{setting}="):
        PPO(**{**SETTINGS, setting: value})
