"""The policy: training recomputes exactly what acting computed, and the memory stays inside."""

import copy

import pytest
import torch
from torchrl.envs import Compose, InitTracker, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from memo_lightning.envs import DarkKeyToDoor, PreviousStep
from memo_lightning.envs.interface import interface_of
from memo_lightning.errors import TrainingStopped, UserError
from memo_lightning.models import MemoTransformer
from memo_lightning.models.recorded_pass import RecordedPasses
from memo_lightning.policies import MemoryPolicy, VectorEncoder
from memo_lightning.policies.action import action_of_spec
from memo_lightning.policies.heads import ActorCriticHeads


def grid_world(n_envs):
    base = DarkKeyToDoor(n_envs=n_envs, room_size=3, episode_length=4, trial_length=17)
    return TransformedEnv(base, Compose(PreviousStep(interface_of(base).action), InitTracker()))


@pytest.fixture
def env():
    return grid_world(6)


@pytest.fixture
def policy(env):
    torch.manual_seed(0)
    model = MemoTransformer(d_model=16, n_layers=2, n_heads=2, d_ff=32, segment_length=5, summary_length=2)
    interface = interface_of(env)
    encoder = VectorEncoder(interface.observed(), 16, ["observation", "previous_step"])
    policy = MemoryPolicy(encoder, model, ActorCriticHeads(16, interface.action)).eval()
    torch.nn.init.normal_(policy.actor[0].module.weight)
    return policy


def nbytes(policy):
    return policy.sequence_model.state_nbytes(policy._memory)


def recompute(policy, rollout):
    heads = rollout.clone().set("hidden", policy.hidden(rollout))
    log_prob = policy.actor.get_dist(heads).log_prob(rollout["action"])
    return log_prob, policy.heads.critic(heads)["state_value"]


@torch.no_grad()
def test_training_recomputes_what_acting_found(env, policy):
    rollout = env.rollout(50, policy, break_when_any_done=False)  # almost three trials
    log_prob, value = recompute(policy, rollout)
    torch.testing.assert_close(log_prob, rollout["action_log_prob"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(value, rollout["state_value"], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_observation_that_is_not_finite_is_named(env, policy):
    td = env.reset()
    td["observation", "observation"][3, 1] = torch.nan
    with pytest.raises(TrainingStopped, match="observation 'observation' of environment 3 holds nan: must be finite"):
        policy(td)


@torch.no_grad()
def test_a_policy_on_another_device_reads_nothing_back_from_it(env, policy, without_values):
    policy.to(without_values).reset_state = lambda: None  # it reads the version of the weights, once per trial
    td = env.reset()
    for t in range(2 * 5 + 1):
        td["is_init"].fill_(t == 0)
        acted = policy(td)
        assert acted["action"].device.type == "meta"
    assert "action" not in td.keys()
    td["observation", "observation"][3, 1] = torch.nan
    with pytest.raises(TrainingStopped, match="observation 'observation' of environment 3 holds nan: must be finite"):
        policy(td)


@torch.no_grad()
def test_training_recomputes_acting_also_where_trials_end_at_different_steps(env, policy):
    td = env.reset()
    steps = []
    generator = torch.Generator().manual_seed(3)
    for _ in range(40):
        policy(td)
        after, td = env.step_and_maybe_reset(td)
        steps.append(after)
        which = torch.rand(6, 1, generator=generator) < 0.1
        td = env.reset(td.set("_reset", which)) if which.any() else td
    rollout = torch.stack(steps, 1)
    starts = rollout["is_init"].squeeze(-1)
    assert starts[:, 1:].any(1).all()
    assert not (starts == starts[:1]).all()
    log_prob, _ = recompute(policy, rollout)
    torch.testing.assert_close(log_prob, rollout["action_log_prob"], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_refreshed_memory_equals_one_made_from_scratch(env, policy):
    """This includes trials that end at different steps, so that sequences contain more than one."""
    policy.keep_inputs(shuffle_episodes=False)
    td = env.reset()
    steps = []
    generator = torch.Generator().manual_seed(3)
    for t in range(40):
        if t in (11, 26):  # an update in the middle of trials
            for parameter in policy.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
            policy.weights_version += 1
        policy(td)
        after, td = env.step_and_maybe_reset(td)
        steps.append(after)
        which = torch.rand(6, 1, generator=generator) < 0.1
        td = env.reset(td.set("_reset", which)) if which.any() else td
        if t in (11, 26, 39):
            rollout = torch.stack(steps, 1)
            log_prob, value = recompute(policy, rollout)
            since = {11: 11, 26: 26, 39: 26}[t]  # steps acted with the current weights
            torch.testing.assert_close(value[:, since:], rollout["state_value"][:, since:], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(log_prob[:, since:], rollout["action_log_prob"][:, since:], atol=1e-5, rtol=1e-5)
    scratch = copy.deepcopy(policy)
    scratch.reset_state()
    for step in steps:
        scratch(step.select(*policy.in_keys))
    batch = td.select(*policy.in_keys)
    torch.testing.assert_close(policy(batch.clone())["state_value"], scratch(batch.clone())["state_value"])
    assert nbytes(policy) == nbytes(scratch)


@torch.no_grad()
def test_weights_that_change_without_a_refresh_leave_a_stale_memory(env, policy):
    td = env.reset()
    rollout = []
    for t in range(12):
        if t == 11:
            for parameter in policy.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
            policy.weights_version += 1  # inputs were not kept, so nothing can be refreshed
        policy(td)
        after, td = env.step_and_maybe_reset(td)
        rollout.append(after)
    rollout = torch.stack(rollout, 1)
    _, value = recompute(policy, rollout)
    assert (value - rollout["state_value"])[:, 11].abs().max() > 1e-3


@torch.no_grad()
def test_inputs_are_kept_for_the_whole_trial_although_the_memory_spans_an_episode(env, policy):
    """Episodes of one length all begin together, and so do memories that span an episode."""
    policy.sequence_model.memory_scope = "episode"
    policy.keep_inputs(shuffle_episodes=True)
    step = env.reset().select(*policy.in_keys)
    for t in range(10):
        step["is_init"], step["episode_end"] = (torch.full((6, 1), flag) for flag in (t == 0, t in (4, 8)))
        policy(step.clone())
    assert policy._history.n_steps == 10
    step["is_init"] = torch.ones(6, 1, dtype=torch.bool)
    policy(step.clone())
    assert policy._history.n_steps == 1


def test_memory_never_enters_the_rollout(env, policy):
    rollout = env.rollout(20, policy, break_when_any_done=False)
    policy_made = set(rollout.exclude("next").keys()) - set(env.reset().keys())
    assert policy_made == {"action", "action_log_prob", "state_value"}
    assert nbytes(policy) > 0


def test_exploration_type_decides_between_sampling_and_mode(env, policy):
    td = env.reset()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        actions = [policy(td.clone())["action"] for _ in range(5)]
    assert all(torch.equal(action, actions[0]) for action in actions)
    with set_exploration_type(ExplorationType.RANDOM):
        sampled = torch.stack([policy(td.clone())["action"] for _ in range(20)])
    assert len(sampled.unique(dim=0)) > 1


def test_memory_follows_the_number_of_environments(env, policy):
    policy(env.reset())
    assert policy(grid_world(2).reset())["action"].shape == (2,)
    assert len(policy._memory) == 2
    policy.reset_state()
    assert policy._memory is None


def test_keys_that_cannot_be_encoded_are_refused(env):
    with pytest.raises(UserError, match="no 'position'"):
        VectorEncoder(interface_of(env).observed(), 16, ["position"])
    with pytest.raises(UserError, match="Categorical"):
        action_of_spec(env.observation_spec["observation", "observation"], 1)


def test_passes_are_recorded_only_when_asked_for_and_without_another_set_of_weights(env, policy):
    before = list(policy.state_dict())
    assert not isinstance(policy._recorded, RecordedPasses)
    policy.record_passes()
    assert isinstance(policy._recorded, RecordedPasses)
    assert list(policy.state_dict()) == before
    assert copy.deepcopy(policy)._recorded._model is not policy.sequence_model, "a worker's copy reads with its own"
    rollout = env.rollout(12, policy, break_when_any_done=False)
    expected = policy.sequence_model(policy.encode_sequences(rollout), policy.memory_starts(rollout), 5)
    assert torch.equal(policy.hidden(rollout, 5), expected)
