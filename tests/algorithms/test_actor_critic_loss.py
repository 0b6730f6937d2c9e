"""The off-policy objective against naive references: PopArt, minimum of random critics, targets, masks, gradients."""

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import nn

from memo_lightning.algorithms.actor_critic_loss import ActorCriticLoss
from memo_lightning.algorithms.critics import Critics
from memo_lightning.algorithms.popart import PopArt
from memo_lightning.models import MemoTransformer
from memo_lightning.policies import MemoryPolicy
from memo_lightning.policies.action import Action
from memo_lightning.policies.heads import ExploringHeads
from tiny import MEMO_SIZES

D, N_ENVS, T = MEMO_SIZES["d_model"], 5, 9
DISCOUNTS = [0.9, 0.5, 0.99]
ACTIONS = {
    "discrete": spaces.Discrete(4),
    "several": spaces.MultiDiscrete([3, 2]),
    "continuous": spaces.Box(-2.0, 3.0, (2,)),
}
SETTINGS = {
    "discounts": DISCOUNTS,
    "n_critics": 4,
    "n_minimum": 2,
    "width": 8,
    "critic_coef": 2.0,
    "clone_coef": 0.3,
    "popart_rate": 0.1,
    "cross_episodes": False,
}


class Identity(nn.Module):
    in_keys = ()


@pytest.fixture(params=list(ACTIONS))
def policy(request):
    torch.manual_seed(0)
    heads = ExploringHeads(D, Action(ACTIONS[request.param]))
    return MemoryPolicy(Identity(), MemoTransformer(**MEMO_SIZES), heads)


def make_trials(policy, seed=1, lengths=(9, 4, 7, 9, 2)):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.arange(T + 1) < torch.tensor(lengths).unsqueeze(1)
    chance = torch.rand((3, N_ENVS, T + 1, 1), generator=generator)
    torch.manual_seed(seed)
    return TensorDict(
        {
            "valid": valid,
            "action": policy.heads.action.spec((N_ENVS, T + 1)).rand(),
            "next": {
                "reward": torch.randn((N_ENVS, T + 1, 1), generator=generator),
                "done": torch.zeros_like(chance[0]) > 0,
                "episode_end": chance[1] < 0.3,
                "episode_truncated": torch.zeros_like(chance[2]) > 0,
            },
        },
        [N_ENVS, T + 1],
    )


def make_hidden(seed=2):
    return torch.randn((N_ENVS, T + 1, D), generator=torch.Generator().manual_seed(seed)).requires_grad_()


def make_loss(policy, **changes):
    torch.manual_seed(3)
    loss = ActorCriticLoss(policy, **{**SETTINGS, **changes})
    for module in (loss.critics, loss.target_critics):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5)
    return loss


def value_of(loss, critics, e, g, hidden, vector):
    """Return the value of one step from critic e under discount g, computed from its weights without the class."""
    first, last = critics.hidden, critics.output
    x = torch.cat([hidden, vector]) if critics.is_continuous else hidden
    z = nn.functional.silu(x @ first.weight[e] + first.bias[e, 0])
    out = (z @ last.weight[e] + last.bias[e, 0]).view(len(DISCOUNTS), -1)[g]
    return out[0] if critics.is_continuous else out[0] + (out[1:] * vector).sum()


def test_statistics_outlive_batches_without_targets_and_large_means():
    popart = PopArt(1, 0.1)
    popart.update(torch.empty(0, 1), lambda moments: moments)
    assert popart.mean.tolist() == [0.0]
    for _ in range(100):
        popart.update(5000 + torch.randn(1000, 1), lambda moments: moments)
    torch.testing.assert_close(popart.deviation, torch.ones(1, dtype=torch.float64), atol=0.02, rtol=0)
    assert popart.normalize(torch.full((2, 1), 5000.0)).dtype == torch.float32
    popart.update(torch.tensor([[1e30], [-1e30]]), lambda moments: moments)
    assert popart.deviation.isfinite()


def test_targets_are_those_of_a_loop_over_steps_discounts_and_critics(policy):
    loss = make_loss(policy)
    loss.popart.mean.copy_(torch.tensor([1.0, -2.0, 3.0]))
    loss.popart.mean_square.copy_(torch.tensor([2.0, 8.0, 25.0]))
    trials, hidden = make_trials(policy), make_hidden().detach()
    steps, states = trials[0], hidden[0]
    end = steps["next", "episode_end"]
    torch.manual_seed(4)
    drawn = torch.randperm(4, generator=torch.Generator().manual_seed(7))[:2].tolist()
    found = loss.targets(policy, states, steps, steps["next", "reward"], end, torch.Generator().manual_seed(7))
    torch.manual_seed(4)
    distribution = loss.target_actor.get_dist(TensorDict({"hidden": states}, states.shape[:1]))
    continuous = loss.critics.is_continuous
    chosen = loss.critics.as_vector(distribution.rsample()) if continuous else distribution.probs
    for t in range(T + 1):
        for g, discount in enumerate(DISCOUNTS):
            least = min(value_of(loss, loss.target_critics, e, g, states[t], chosen[t]) for e in drawn)
            least = least * float(loss.popart.deviation[g]) + float(loss.popart.mean[g])
            expected = steps["next", "reward"][t, 0] + (0.0 if end[t, 0] else discount * least)
            torch.testing.assert_close(found[t, g], expected, atol=1e-5, rtol=1e-5)


def test_every_pair_of_critics_is_drawn(policy):
    loss = make_loss(policy)
    trials, states = make_trials(policy)[0], make_hidden().detach()[0]
    torch.manual_seed(0)
    end = torch.zeros(T + 1, 1, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    found = [
        loss.targets(policy, states, trials, torch.zeros(T + 1, 1), end, generator)[0, 0].item() for _ in range(60)
    ]
    if not loss.critics.is_continuous:  # continuous actions are also drawn
        assert 3 <= len(set(found)) <= 4, "the least of six pairs of four critics: all but the largest can be it"
    assert max(found) > min(found)


def test_a_value_of_probabilities_is_the_mean_over_actions():
    critics = Critics(D, Action(ACTIONS["discrete"]), n_critics=3, n_discounts=2, width=8)
    hidden, probability = torch.randn(6, D), torch.rand(6, 4).softmax(-1)
    one_by_one = torch.stack([critics(hidden, critics.as_vector(torch.full((6,), a))) for a in range(4)], -1)
    torch.testing.assert_close(critics(hidden, probability), (one_by_one * probability.unsqueeze(1)).sum(-1))


@pytest.mark.parametrize("kind", list(ACTIONS))
def test_outputs_are_the_same_before_and_after_the_statistics_change(kind):
    action = Action(ACTIONS[kind])
    critics, popart = Critics(D, action, n_critics=3, n_discounts=3, width=8), PopArt(3, 0.3)
    hidden, vector = torch.randn(20, D), critics.as_vector(action.spec((20,)).rand())
    for scale in (1.0, 100.0, 0.01):
        before = popart.denormalize(critics(hidden, vector))
        old = popart.mean.clone(), popart.deviation
        popart.update(scale * torch.randn(50, 3) + torch.tensor([5.0, -30.0, 0.1]), lambda moments: moments)
        critics.rescale(*old, popart.mean, popart.deviation)
        after = popart.denormalize(critics(hidden, vector))
        assert (popart.mean - old[0]).abs().min() > 0
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_statistics_are_those_of_all_targets_at_first_and_of_the_newest_later():
    popart, targets = PopArt(2, 0.1), [torch.randn(40, 2) * 3 + 7 for _ in range(30)]
    for number, values in enumerate(targets, start=1):
        popart.update(values, lambda moments: moments)
        if number == 10:
            seen = torch.cat(targets[:10])
            torch.testing.assert_close(popart.mean.float(), seen.mean(0))
            torch.testing.assert_close(popart.deviation.float(), seen.std(0, correction=0))
    mean = torch.cat(targets[:10]).mean(0)
    for values in targets[10:]:
        mean = 0.9 * mean + 0.1 * values.mean(0)
    torch.testing.assert_close(popart.mean.float(), mean)


def test_targets_that_are_not_finite_do_not_count():
    popart, expected = PopArt(2, 0.1), PopArt(2, 0.1)
    targets = torch.randn(40, 2)
    expected.update(targets, lambda moments: moments)
    spoilt = torch.tensor([[float("nan"), 1.0], [0.0, float("inf")]])
    popart.update(spoilt, lambda moments: moments)
    popart.update(torch.cat([targets, spoilt]), lambda moments: moments)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(popart.state_dict()[name], value, msg=name)


def run(loss, policy, trials, hidden, weight=None, **changes):
    torch.manual_seed(9)
    weight = torch.ones(N_ENVS) if weight is None else weight
    return loss(policy, hidden, trials, weight, generator=torch.Generator().manual_seed(5), **changes)


def test_losses_are_those_of_a_loop_over_steps(policy):
    trials, hidden = make_trials(policy), make_hidden()
    weight = torch.tensor([1.0, 0.5, 0.25, 1.0, 0.75])
    loss = make_loss(policy)
    found = run(loss, policy, trials, hidden, weight)
    # Statistics and critics are those after the update, which leaves the predicted values unchanged.
    valid = trials["valid"][:, :-1]
    steps, following = trials[:, :-1][valid], trials[:, 1:][valid]
    states, after = hidden[:, :-1][valid].detach(), hidden[:, 1:][valid].detach()
    torch.manual_seed(9)
    targets = loss.targets(
        policy,
        after,
        following,
        steps["next", "reward"],
        steps["next", "episode_end"],
        torch.Generator().manual_seed(5),
    )
    distribution = policy.actor.get_dist(TensorDict({"hidden": states}, states.shape[:1]))
    continuous = loss.critics.is_continuous
    chosen = loss.critics.as_vector(distribution.rsample()) if continuous else distribution.probs
    taken, log_prob = loss.critics.as_vector(steps["action"]), distribution.log_prob(steps["action"])
    weights = weight.unsqueeze(1).expand(valid.shape)[valid]
    critic, actor, clone, cloned = torch.zeros(3), 0.0, 0.0, 0
    for n in range(len(states)):
        for g in range(3):
            wanted = (targets[n, g] - loss.popart.mean[g]) / loss.popart.deviation[g]
            errors = [value_of(loss, loss.critics, e, g, states[n], taken[n]) - wanted for e in range(4)]
            critic[g] += weights[n] * sum(error**2 for error in errors).item() / 4
        of_taken = sum(value_of(loss, loss.critics, e, 0, states[n], taken[n]) for e in range(4)) / 4
        of_chosen = sum(value_of(loss, loss.critics, e, 0, states[n], chosen[n]) for e in range(4)) / 4
        actor -= weights[n] * of_chosen.item()
        if of_taken > of_chosen:
            clone -= weights[n] * max(log_prob[n].item(), -20.0)
            cloned += 1
    critic, actor, clone = critic / weights.sum(), actor / weights.sum(), clone / weights.sum()
    torch.testing.assert_close(found.critic, critic, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.actor, actor, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.clone, clone, atol=1e-4, rtol=1e-4)
    assert found.cloned_fraction.item() == pytest.approx(cloned / len(states))
    total = 2.0 * critic.mean() + actor + 0.3 * clone
    torch.testing.assert_close(found.total.detach(), total, atol=1e-4, rtol=1e-4)


def test_padding_changes_nothing(policy):
    hidden = make_hidden().detach()
    clean, dirty = make_trials(policy), make_trials(policy)
    padding = ~dirty["valid"]
    dirty["next", "reward"][padding] = 1e6
    dirty["next", "episode_end"][padding] = True
    dirty["action"][padding] = make_trials(policy, seed=8)["action"][padding]
    far = torch.cat(
        [torch.zeros(N_ENVS, 1, dtype=torch.bool), padding[:, :-1]], 1
    )  # beyond the inputs after the last step
    changed = hidden.masked_fill(far.unsqueeze(-1), 50.0)
    one = run(make_loss(policy), policy, clean, hidden.clone().requires_grad_())
    other = run(make_loss(policy), policy, dirty, changed.requires_grad_())
    for name in ("total", "critic", "actor", "clone", "cloned_fraction", "errors"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    other.total.backward()
    assert (changed.grad[padding] == 0).all(), "no gradient from padding, nor from the state after the last step"


def test_the_actors_part_changes_the_actor_and_the_trunk_and_no_critic(policy):
    trials, hidden = make_trials(policy), make_hidden()
    loss = make_loss(policy, critic_coef=1e-30)
    run(loss, policy, trials, hidden).total.backward()
    assert hidden.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in policy.actor.parameters())
    assert all(parameter.grad.abs().max() < 1e-20 for parameter in loss.critics.parameters())
    for target in (loss.target_critics, loss.target_actor):
        assert all(parameter.grad is None for parameter in target.parameters())


def test_a_step_whose_episode_was_cut_off_within_a_trial_has_no_target(policy):
    trials, hidden = make_trials(policy), make_hidden()
    trials["next", "episode_truncated"] = trials["next", "episode_end"].clone()
    changed = trials.clone()
    cut = trials["next", "episode_truncated"]
    changed["next", "reward"] = torch.where(cut, 77.0, trials["next", "reward"])
    one, other = (run(make_loss(policy), policy, batch, hidden) for batch in (trials, changed))
    assert torch.equal(one.critic, other.critic)
    crossing = [run(make_loss(policy, cross_episodes=True), policy, batch, hidden) for batch in (trials, changed)]
    assert not torch.equal(crossing[0].critic, crossing[1].critic), "there the next episode follows"


def test_the_end_of_a_trial_by_a_limit_is_bootstrapped(policy):
    trials, hidden = make_trials(policy), make_hidden().detach()
    trials["next", "episode_end"].zero_()
    trials["next", "done"][3, T - 1] = True
    limited = trials.clone()
    limited["next", "episode_truncated"][3, T - 1] = True
    changed = hidden.clone()
    changed[3, T] += 1.0  # the observation that would have followed
    for batch, matters in ((trials, False), (limited, True)):
        one, other = (run(make_loss(policy), policy, batch, h) for h in (hidden, changed))
        assert torch.equal(one.critic, other.critic) != matters


def test_target_heads_follow_slowly(policy):
    loss = make_loss(policy)
    before = {name: value.clone() for name, value in loss.target_critics.named_parameters()}
    with torch.no_grad():
        policy.actor[0].module[0].weight.add_(1.0) if isinstance(policy.actor[0].module, nn.Sequential) else (
            policy.actor[0].module.weight.add_(1.0)
        )
    loss.follow(policy, 0.25)
    for name, value in loss.critics.named_parameters():
        expected = 0.75 * before[name] + 0.25 * value
        torch.testing.assert_close(dict(loss.target_critics.named_parameters())[name], expected)
    online, target = next(policy.actor.parameters()), next(loss.target_actor.parameters())
    torch.testing.assert_close(target, online - 0.75, atol=1e-5, rtol=1e-5)
