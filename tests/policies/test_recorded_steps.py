"""Recorded acting steps: the policy acts as it does without, and what is recorded when."""

import copy
from dataclasses import replace

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from memo_lightning.models import (
    GRU,
    DirectKVTransformer,
    FullContextTransformer,
    MemoTransformer,
    RecurrentMemoryTransformer,
    RetrievalMemory,
)
from memo_lightning.policies import Interface, MemoryPolicy, ObservationEncoder
from memo_lightning.policies.action import ACTION_MASK, Action
from memo_lightning.policies.heads import ActorCriticHeads, ExploringHeads
from memo_lightning.policies.observation_keys import ObservationKey
from memo_lightning.policies.recorded_steps import RecordedSteps

LAYERS = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32}
SEGMENTS = {"segment_length": 5, "summary_length": 2}
MEMORIES = {
    "memo": lambda: MemoTransformer(**LAYERS, **SEGMENTS),
    "memo_limited_age": lambda: MemoTransformer(**LAYERS, **SEGMENTS, max_summary_age=2),
    "memo_bounded": lambda: MemoTransformer(**LAYERS, **SEGMENTS, memory_budget=9),
    "direct_kv": lambda: DirectKVTransformer(**LAYERS, **SEGMENTS),
    "rmt": lambda: RecurrentMemoryTransformer(**LAYERS, **SEGMENTS),
    "retrieval": lambda: RetrievalMemory(**LAYERS, **SEGMENTS),
    "full_context": lambda: FullContextTransformer(**LAYERS),
    "sliding_window": lambda: FullContextTransformer(**LAYERS, memory_budget=8),
    "gru": lambda: GRU(16, 2),
}
N_ENVS, N_STEPS = 4, 45
BOX = spaces.Box(-1.0, 1.0, (3,))
INTERFACE = Interface(BOX, [ObservationKey("observation", (), BOX)], Action(spaces.Discrete(5)))


class Tape:
    """Records nothing, but counts recordings and replays, and writes outputs to the same place every time."""

    def __init__(self):
        self.n_recorded = self.n_replayed = 0

    def __call__(self, step):
        self.n_recorded += 1
        outputs = TensorDict({}, [])

        def replay():
            self.n_replayed += 1
            outputs.batch_size = []
            new = step()
            outputs.update(new) if outputs.is_empty() else outputs.update_(new)
            outputs.batch_size = new.batch_size

        return replay, outputs


def make_policy(memory="memo", interface=INTERFACE, heads=ActorCriticHeads):
    torch.manual_seed(0)
    encoder = ObservationEncoder(interface.observed(), 16)
    policy = MemoryPolicy(
        encoder, MEMORIES[memory](), heads(16, interface.action), masked=interface.action.masked
    ).eval()
    torch.nn.init.normal_(policy.actor.module[0].module.weight)
    return policy


def random_inputs(interface=INTERFACE, n_envs=N_ENVS):
    """Return inputs ``[N_STEPS, n_envs]`` of trials that begin at different steps and last at most 30."""
    torch.manual_seed(1)
    inputs = interface.observed((N_STEPS, n_envs)).rand()
    starts = torch.rand(N_STEPS, n_envs, 1) < 0.03
    starts[[0, 20]] = True
    inputs["is_init"], inputs["episode_end"] = starts, torch.rand(N_STEPS, n_envs, 1) < 0.1
    return inputs


def record(policy, n_steps=30):
    tape = Tape()
    policy._recorded_steps = RecordedSteps(policy, n_steps, tape)
    return tape


def act(policy, inputs):
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        return torch.stack([policy(step.clone()).select(*policy.out_keys) for step in inputs])


def assert_equal(ours, expected):
    assert torch.equal(ours["action"], expected["action"])
    for key in ("action_log_prob", "state_value"):
        torch.testing.assert_close(ours[key], expected[key], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("memory", MEMORIES)
def test_a_policy_acts_as_without_recordings(memory):
    policy, inputs = make_policy(memory), random_inputs()
    expected = act(policy, inputs)
    budget = policy.sequence_model.memory_budget
    tape = record(policy)
    assert_equal(act(policy, inputs), expected)
    assert policy.sequence_model.memory_budget == budget
    kinds = 1 if policy.sequence_model.segment_length is None else 2
    assert (tape.n_recorded, tape.n_replayed) == (kinds, N_STEPS - kinds)


@torch.no_grad()
def test_actions_are_sampled_outside_of_the_recording():
    policy, step = make_policy(), random_inputs()[0]
    record(policy)
    with set_exploration_type(ExplorationType.RANDOM):
        found = [policy(step.clone())["action"] for _ in range(20)]
    assert len({tuple(action.tolist()) for action in found}) > 1


@torch.no_grad()
@pytest.mark.parametrize("memory", ["memo", "gru", "full_context"])
def test_a_look_at_the_next_step_changes_nothing_and_equals_the_step(memory):
    policy, inputs = make_policy(memory), random_inputs()
    record(policy)
    expected = act(policy, inputs)
    policy.reset_state()
    for t in range(N_STEPS - 1):
        assert torch.equal(act(policy, inputs[t][None])["action"], expected[t][None]["action"])
        which = (~inputs[t + 1]["is_init"]).flatten().nonzero().flatten()
        if not len(which):
            continue
        values = policy.next_values(inputs[t + 1], which)
        torch.testing.assert_close(values, expected[t + 1]["state_value"][which], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("memory", ["memo", "full_context"])
def test_there_is_room_to_look_at_the_step_after_the_last_of_the_longest_trial(memory):
    policy, inputs = make_policy(memory), random_inputs()
    inputs["is_init"] = torch.zeros_like(inputs["is_init"])
    expected = act(policy, inputs[:31])[30]["state_value"]
    record(policy)
    policy.reset_state()
    act(policy, inputs[:30])
    values = policy.next_values(inputs[30], torch.arange(N_ENVS))
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_forbidden_actions_stay_forbidden():
    interface = replace(INTERFACE, action=Action(spaces.Discrete(5), masked=True))
    policy, inputs = make_policy(interface=interface), random_inputs()
    torch.manual_seed(2)
    inputs[ACTION_MASK] = torch.rand(N_STEPS, N_ENVS, 5) < 0.3
    inputs[ACTION_MASK][..., 2] = True
    expected = act(policy, inputs)
    record(policy)
    found = act(policy, inputs)
    assert_equal(found, expected)
    assert inputs[ACTION_MASK].gather(-1, found["action"].unsqueeze(-1)).all()


@torch.no_grad()
def test_another_number_of_environments_begins_anew():
    policy, inputs = make_policy(), random_inputs()
    tape = record(policy)
    act(policy, inputs)
    expected = act(make_policy(), random_inputs(n_envs=2))
    assert_equal(act(policy, random_inputs(n_envs=2)), expected)
    assert tape.n_recorded == 4


@torch.no_grad()
def test_new_weights_are_used_and_the_memory_can_be_emptied():
    policy, inputs = make_policy(), random_inputs()[:20]
    record(policy)
    act(policy, inputs)
    for weight in policy.parameters():
        weight.mul_(1.1)
    policy.reset_state()
    inputs["is_init"] = torch.zeros_like(inputs["is_init"])
    other = copy.deepcopy(policy)
    other._recorded_steps = None
    assert_equal(act(policy, inputs), act(other, inputs))


@torch.no_grad()
def test_steps_are_not_recorded_while_inputs_are_kept():
    policy, inputs = make_policy(), random_inputs()
    expected = act(policy, inputs)
    tape = record(policy)
    policy.keep_inputs(shuffle_episodes=False)
    assert torch.equal(act(policy, inputs)["state_value"], expected["state_value"])
    assert tape.n_recorded == 0


def test_what_cannot_be_recorded_is_refused():
    class Own(ActorCriticHeads):
        def forward(self, tensordict):
            return super().forward(tensordict)

    with pytest.raises(ValueError, match="Own overrides forward: must override read and choose instead"):
        make_policy(heads=Own).record_steps(30)
    policy = make_policy(heads=ExploringHeads)
    policy.record_steps(30)
    assert isinstance(policy._recorded_steps, RecordedSteps)
    policy = make_policy("full_context")
    policy.sequence_model.budget_of_trial = lambda n_steps: None
    with pytest.raises(ValueError, match="memory_budget=None: must be set for a state of fixed shape"):
        policy.record_steps(30)


@pytest.mark.cuda
@torch.no_grad()
@pytest.mark.parametrize("memory", MEMORIES)
def test_cuda_graphs_act_as_the_policy_does_on_the_cpu(memory):
    policy, inputs = make_policy(memory), random_inputs()
    expected = act(policy, inputs)
    policy.reset_state()
    policy.cuda()
    policy.record_steps(30)
    found = act(policy, inputs).cpu()
    for key in ("action_log_prob", "state_value"):
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-4)
