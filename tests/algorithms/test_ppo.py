"""PPO on whole sequences: the published loss, one pass of the trunk, and sequences that stay whole."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from memo_lightning.algorithms import PPO
from memo_lightning.data import RolloutDataModule
from memo_lightning.errors import UserError
from tiny import PPO_SETTINGS

SETTINGS = {
    **PPO_SETTINGS,
    "clip_epsilon": 0.1,
    "entropy_coef": 0.03,
    "value_coef": 0.7,
    "n_epochs": 1,
    "learning_rate": 1e-3,
}


def fixed_length():
    return {"segment_length": 5}


def attach(algorithm, policy):
    algorithm.attach(policy, SimpleNamespace(rollout_length=20, n_actors=1))
    return algorithm


def policy_inputs(policy, rollout):
    """Return the policy inputs after the last step of a rollout."""
    return rollout["next"][:, -1].select(*policy.in_keys)


@pytest.fixture
def setup(make_env, make_policy):
    env = make_env(6, 0)
    policy = make_policy(env).eval()
    torch.nn.init.normal_(policy.actor[0].module.weight)
    with torch.no_grad():
        rollout = env.rollout(20, policy, break_when_any_done=False)
    return policy, attach(PPO(**SETTINGS), policy), rollout, policy_inputs(policy, rollout)


def test_loss_is_the_published_one(setup):
    policy, algorithm, rollout, following = setup
    experience = algorithm.prepare(policy, rollout, following, fixed_length)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn_like(parameter)  # ratios on both sides of the clip range
    loss, metrics = algorithm.loss(policy, experience)

    hidden = policy.hidden(rollout)
    logits, value = policy.actor[0].module(hidden), policy.heads.critic.module(hidden)
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
    policy, algorithm, rollout, following = setup
    calls = []
    policy.sequence_model.register_forward_hook(lambda *_: calls.append(1))
    loss, _ = algorithm.loss(policy, algorithm.prepare(policy, rollout, following, fixed_length))
    calls_for_loss = len(calls) - 1  # one more bootstraps the sequences, which end within a trial
    loss.backward()
    assert calls_for_loss == 1
    assert all(parameter.grad is not None for parameter in policy.parameters())
    assert policy.sequence_model.summary_queries.grad.abs().sum() > 0
    assert policy.encoder.projection.weight.grad.abs().sum() > 0


def test_sequences_that_end_within_a_trial_are_bootstrapped(make_env, make_policy):
    env = make_env(4, 0)
    policy = make_policy(env).eval()
    algorithm = PPO(**{**SETTINGS, "gae_lambda": 0.0})
    with torch.no_grad():
        long = env.rollout(12, policy, break_when_any_done=False)
    assert long["next", "done"][:, -1].all()
    cut = long[:, :7].clone()
    after_cut, after_long = policy_inputs(policy, cut), policy_inputs(policy, long)
    advantage = algorithm.prepare(policy, cut, after_cut, fixed_length).learned["advantage"]
    expected = algorithm.prepare(policy, long, after_long, fixed_length).learned["advantage"][:, :7]
    torch.testing.assert_close(advantage, expected, atol=1e-5, rtol=1e-5)


def test_minibatches_hold_every_whole_sequence_once(setup):
    policy, algorithm, rollout, following = setup
    rollout["action_log_prob"] = torch.arange(6.0).unsqueeze(1).expand(6, 20).clone()
    minibatches = list(algorithm.minibatches(algorithm.prepare(policy, rollout, following, fixed_length), fixed_length))
    assert [minibatch.inputs.shape for minibatch in minibatches] == [(3, 20), (3, 20)]
    numbers = torch.cat([minibatch.learned["action_log_prob"] for minibatch in minibatches])
    for minibatch in minibatches:
        number = minibatch.learned["action_log_prob"][:, 0].long()
        assert (minibatch.inputs["observation"] == rollout["observation"][number]).all()
    assert (numbers == numbers[:, :1]).all()
    assert sorted(numbers[:, 0].tolist()) == list(range(6))
    with pytest.raises(UserError, match=r"n_minibatches=2: must be at most collector\.n_envs=1"):
        algorithm.check_n_envs(1)


def test_a_partial_update_sees_all_steps_and_learns_from_the_new_ones(setup):
    policy, algorithm, rollout, following = setup

    def loss_after(change):
        changed = rollout.clone()
        change(changed)
        experience = algorithm.prepare(policy, changed, following, fixed_length, first=6)
        assert experience.inputs.shape == (6, 20)
        assert experience.learned.shape == (6, 14)
        return algorithm.loss(policy, experience)[0].item()

    loss = loss_after(lambda steps: None)
    assert loss_after(lambda steps: steps["action"][:, :6].fill_(0)) == loss
    assert loss_after(lambda steps: steps["next", "reward"][:, :6].fill_(9.0)) == loss
    assert loss_after(lambda steps: steps["action"][:, 6:].fill_(0)) != loss
    assert loss_after(lambda steps: steps["observation", "observation"][:, 2:5].add_(1.0)) != loss
    # GAE looks ahead only, so new steps are worth the same in a partial update as in a full one.
    partial, full = (
        algorithm.prepare(policy, rollout.clone(), following, fixed_length, first).learned for first in (6, 0)
    )
    torch.testing.assert_close(partial["advantage"], full["advantage"][:, 6:])


def test_a_partial_update_may_encode_earlier_steps_without_gradient(setup):
    policy, algorithm, rollout, following = setup
    experience = algorithm.prepare(policy, rollout, following, fixed_length, first=6)
    encoder = policy.encoder.projection.weight
    losses, gradients = [], []
    for algorithm.detach_older_encodings in (False, True):
        loss, _ = algorithm.loss(policy, experience)
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, encoder)[0])
    encode = policy.encode

    def detached(sequences):
        encoded = encode(sequences)
        return torch.cat([encoded[:, :6].detach(), encoded[:, 6:]], dim=1)

    policy.encode = detached
    algorithm.detach_older_encodings = False
    expected = torch.autograd.grad(algorithm.loss(policy, experience)[0], encoder)[0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(gradients[1], expected)
    assert not torch.allclose(gradients[0], expected, rtol=1e-2)


def test_recomputed_log_probs_make_the_first_ratio_one(setup):
    policy, algorithm, rollout, following = setup
    policy.train()
    policy.sequence_model.segment_jitter = 0.4
    draw = policy.sequence_model.draw_pass
    drifted = []
    for recompute in (False, True):
        algorithm.recompute_log_probs = recompute
        experiences = [algorithm.prepare(policy, rollout.clone(), following, draw) for _ in range(8)]
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
        values = policy.eval().heads.critic(rollout.clone().set("hidden", policy.hidden(rollout)))["state_value"]
    following = policy_inputs(policy, rollout)
    policy.train()
    drifted = []
    for recompute in (False, True):
        algorithm = attach(PPO(**{**SETTINGS, "recompute_log_probs": recompute}), policy)
        draw_pass = policy.sequence_model.draw_pass
        kl = []
        for _ in range(8):
            experience = algorithm.prepare(policy, rollout.clone(), following, draw_pass, stale_values=True)
            torch.testing.assert_close(experience.learned["state_value"], values)
            minibatches = list(algorithm.minibatches(experience, draw_pass))
            kl += [algorithm.loss(policy, minibatch)[1]["kl"] for minibatch in minibatches]
        drifted.append(torch.stack(kl).abs().max())
    assert drifted[0] > 1e-3
    assert drifted[1] < 1e-6


def test_stale_values_are_computed_again(setup):
    policy, algorithm, rollout, following = setup
    acted = rollout["state_value"].clone()
    with torch.no_grad():
        policy.heads.critic.module.bias += 1.0
        expected = policy.heads.critic(rollout.clone().set("hidden", policy.hidden(rollout)))["state_value"]
    algorithm.prepare(policy, rollout, following, fixed_length)
    assert torch.equal(rollout["state_value"], acted)
    algorithm.prepare(policy, rollout, following, fixed_length, stale_values=True)
    torch.testing.assert_close(rollout["state_value"], expected)


@pytest.mark.parametrize("name", ["shuffle_episodes", "detach_older_encodings"])
def test_settings_of_partial_updates_are_refused_without_them(name, make_env):
    algorithm = PPO(**{**SETTINGS, name: True, "n_minibatches": 2})
    chunks = {"n_envs": 4, "rollout_length": 24, "total_frames": 96, "seed": 0}
    algorithm.check_data(RolloutDataModule(make_env, n_chunks=2, **chunks))
    with pytest.raises(UserError, match=f"algorithm.{name}=True: must be false with collector.n_chunks=1"):
        algorithm.check_data(RolloutDataModule(make_env, n_chunks=1, **chunks))


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"betas": 0.9}, r"algorithm\.optimizer: .* got {'betas': 0\.9}"),
        ({"betas": [0.9]}, r"algorithm\.optimizer: .* got {'betas': \[0\.9\]}"),
        ({"weight_decay": "abc"}, r"algorithm\.optimizer\.weight_decay='abc': must be a number"),
        ({"lr": 0.1}, r"algorithm\.optimizer\.lr=0\.1: set algorithm\.learning_rate instead"),
        ({"colour": 1}, "unexpected keyword argument 'colour'"),
    ],
)
def test_settings_of_the_optimizer_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        PPO(**{**SETTINGS, "optimizer": partial(torch.optim.Adam, **settings)})


def test_an_optimizer_that_needs_a_closure_is_refused():
    with pytest.raises(UserError, match=r"optimizer\._target_=LBFGS: must not need a closure"):
        PPO(**{**SETTINGS, "optimizer": torch.optim.LBFGS})


def test_correlated_noise_is_for_continuous_actions(setup):
    policy, _, _, _ = setup
    algorithm = PPO(**{**SETTINGS, "noise_correlation": 0.9})
    with pytest.raises(UserError, match=r"noise_correlation=0.9: must be 0 for discrete actions"):
        algorithm.prepare_policy(policy, SimpleNamespace(n_chunks=1))
