"""PPO on whole rows: the published loss, the trunk run once, rows kept whole."""

import pytest
import torch

from memo_lightning.algorithms import PPO
from memo_lightning.errors import UserError

SETTINGS = {
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "cross_episode_returns": False,
    "clip_epsilon": 0.1,
    "entropy_coef": 0.03,
    "value_coef": 0.7,
    "n_epochs": 1,
    "n_minibatches": 2,
    "normalize_advantage": True,
    "target_kl": None,
    "recompute_log_probs": False,
    "shuffle_episodes": False,
    "learning_rate": 1e-3,
    "warmup_frames": 0,
    "schedule": "constant",
    "max_grad_norm": 0.5,
    "reward_scale": 1.0,
    "max_skipped_updates": 10,
}


def fixed_length():
    return {"segment_length": 5}


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
    experience = algorithm.prepare(policy, rollout, fixed_length)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn_like(parameter)  # ratios on both sides of the clip range
    loss, metrics = algorithm.loss(policy, experience)

    hidden = policy.hidden(rollout)
    logits, value = policy.actor[0].module(hidden), policy.critic.module(hidden)
    log_probs = logits.log_softmax(-1)
    log_prob = log_probs.gather(-1, rollout["action"].unsqueeze(-1)).squeeze(-1)
    ratio = (log_prob - rollout["action_log_prob"]).exp()
    advantage = experience.learned["advantage"].squeeze(-1)
    advantage = (advantage - advantage.mean()) / advantage.std()
    policy_loss = -torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage).mean()
    value_loss = 0.7 * (value - experience.learned["value_target"]).square().mean()
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    assert ((ratio < 0.9) | (ratio > 1.1)).any()
    torch.testing.assert_close(loss, policy_loss + value_loss - 0.03 * entropy, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(metrics["entropy"], entropy.detach(), atol=1e-4, rtol=1e-4)


def test_gradient_reaches_the_trunk_and_the_trunk_runs_once(setup):
    policy, algorithm, rollout = setup
    calls = []
    policy.sequence_model.register_forward_hook(lambda *_: calls.append(1))
    loss, _ = algorithm.loss(policy, algorithm.prepare(policy, rollout, fixed_length))
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
    advantage = algorithm.prepare(policy, cut, fixed_length).learned["advantage"]
    expected = algorithm.prepare(policy, long, fixed_length).learned["advantage"][:, :7]
    torch.testing.assert_close(advantage, expected, atol=1e-5, rtol=1e-5)


def test_minibatches_hold_every_whole_row_once(setup):
    policy, algorithm, rollout = setup
    rollout["action_log_prob"] = torch.arange(6.0).unsqueeze(1).expand(6, 20).clone()
    minibatches = list(algorithm.minibatches(algorithm.prepare(policy, rollout, fixed_length), fixed_length))
    assert [minibatch.rows.shape for minibatch in minibatches] == [(3, 20), (3, 20)]
    rows = torch.cat([minibatch.learned["action_log_prob"] for minibatch in minibatches])
    for minibatch in minibatches:
        row = minibatch.learned["action_log_prob"][:, 0].long()
        assert torch.equal(minibatch.rows["observation"], rollout["observation"][row])
    assert (rows == rows[:, :1]).all()
    assert sorted(rows[:, 0].tolist()) == list(range(6))
    with pytest.raises(UserError, match="n_minibatches=2: must be at most the 1 rows"):
        algorithm.check_rows(1)


def test_a_partial_update_sees_all_steps_and_learns_from_the_new_ones(setup):
    policy, algorithm, rollout = setup

    def loss_after(change):
        changed = rollout.clone()
        change(changed)
        experience = algorithm.prepare(policy, changed, fixed_length, first=6)
        assert experience.rows.shape == (6, 20)
        assert experience.learned.shape == (6, 14)
        return algorithm.loss(policy, experience)[0].item()

    loss = loss_after(lambda rows: None)
    assert loss_after(lambda rows: rows["action"][:, :6].fill_(0)) == loss
    assert loss_after(lambda rows: rows["next", "reward"][:, :6].fill_(9.0)) == loss
    assert loss_after(lambda rows: rows["action"][:, 6:].fill_(0)) != loss
    assert loss_after(lambda rows: rows["observation"][:, 2:5].add_(1.0)) != loss
    # GAE looks ahead only, so new steps are worth the same in a partial update as in a full one.
    partial, full = (algorithm.prepare(policy, rollout.clone(), fixed_length, first).learned for first in (6, 0))
    torch.testing.assert_close(partial["advantage"], full["advantage"][:, 6:])


def test_recomputed_log_probs_make_the_first_ratio_one(setup):
    policy, algorithm, rollout = setup
    policy.train()
    policy.sequence_model.segment_jitter = 0.4
    draw = policy.sequence_model.draw_pass
    drifted = []
    for recompute in (False, True):
        algorithm.recompute_log_probs = recompute
        experiences = [algorithm.prepare(policy, rollout.clone(), draw) for _ in range(8)]
        kl = [algorithm.loss(policy, experience)[1]["kl"] for experience in experiences]
        drifted.append(torch.stack(kl).abs().max())
    assert drifted[0] > 1e-4
    assert drifted[1] < 1e-6


def test_an_update_skips_the_same_layers_as_its_old_log_probs_and_values_skip_none(make_env, make_policy):
    env = make_env(6, 0)
    policy = make_policy(env, n_layers=3, segment_jitter=0.0, layer_drop=0.5)
    torch.nn.init.normal_(policy.actor[0].module.weight)
    with torch.no_grad():
        rollout = env.rollout(20, policy, break_when_any_done=False)
        values = policy.eval().critic(rollout.clone().set("hidden", policy.hidden(rollout)))["state_value"]
    policy.train()
    drifted = []
    for recompute in (False, True):
        algorithm = PPO(**{**SETTINGS, "recompute_log_probs": recompute})
        algorithm.attach(policy)
        draw_pass = policy.sequence_model.draw_pass
        kl = []
        for _ in range(8):
            experience = algorithm.prepare(policy, rollout.clone(), draw_pass, stale_values=True)
            torch.testing.assert_close(experience.learned["state_value"], values)
            minibatches = list(algorithm.minibatches(experience, draw_pass))
            kl += [algorithm.loss(policy, minibatch)[1]["kl"] for minibatch in minibatches]
        drifted.append(torch.stack(kl).abs().max())
    assert drifted[0] > 1e-3
    assert drifted[1] < 1e-6


def test_stale_values_are_computed_again(setup):
    policy, algorithm, rollout = setup
    acted = rollout["state_value"].clone()
    with torch.no_grad():
        policy.critic.module.bias += 1.0
        expected = policy.critic(rollout.clone().set("hidden", policy.hidden(rollout)))["state_value"]
    algorithm.prepare(policy, rollout, fixed_length)
    assert torch.equal(rollout["state_value"], acted)
    algorithm.prepare(policy, rollout, fixed_length, stale_values=True)
    torch.testing.assert_close(rollout["state_value"], expected)


def test_shuffled_episodes_and_returns_across_them_do_not_go_together():
    with pytest.raises(UserError, match="shuffle_episodes=True: must be false with algorithm"):
        PPO(**{**SETTINGS, "shuffle_episodes": True, "cross_episode_returns": True})


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
        ("target_kl", 0.0),
        ("warmup_frames", -1),
        ("schedule", "linear"),
    ],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(UserError, match=f"algorithm.{setting}="):
        PPO(**{**SETTINGS, setting: value})
