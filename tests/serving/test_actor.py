"""Many sessions in one call get the same answers as from a separate agent each."""

import numpy as np
import pytest
import torch
from test_agent import MEMORIES, SPACES, make_toy, save_policy

import memo_lightning
from memo_lightning.errors import UserError
from memo_lightning.models.memory_size import peak_memory_bytes
from memo_lightning.serving.actor import BatchedActor
from memo_lightning.serving.memories import Memories, Memory
from servers import plain, told_at_random


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("name", SPACES)
def test_each_session_acts_as_an_agent_of_its_own(name, memory, tmp_path):
    save_policy(tmp_path / "x.ckpt", make_toy(name)[0], memory)
    actor, rng = BatchedActor(memo_lightning.load(tmp_path / "x.ckpt")), np.random.default_rng(0)
    agents = [memo_lightning.load(tmp_path / "x.ckpt", seed=seed) for seed in range(7)]
    players = [actor.player(seed, False) for seed in range(7)]
    states = [agent.initial_state() for agent in agents]
    space, _ = SPACES[name]
    space.seed(0)
    many = []
    for call in range(70):
        chosen = rng.permutation(7)[: rng.integers(1, 8)]
        if call % 10 < 3:
            chosen = np.arange(7)  # the same sessions several times in a row
        told = [told_at_random(rng, space, name) for _ in chosen]
        answers = actor.act(
            [players[i] for i in chosen], [actor.read(t, players[i]) for i, t in zip(chosen, told, strict=True)]
        )
        for i, t, answer in zip(chosen, told, answers, strict=True):
            observation = t.pop("observation")
            if name == "image, channels first" or name == "stacked frames":
                observation = np.array(observation, np.uint8)
            action, states[i] = agents[i].act(observation, states[i], **t)
            np.testing.assert_allclose(answer.action, action, atol=1e-4)
            many.append(np.asarray(action).tobytes())
    assert len(set(many)) > 1, "or nothing was compared"


def test_a_step_that_spoils_the_model_is_refused_alone_and_changes_nothing(tmp_path):
    save_policy(tmp_path / "x.ckpt", make_toy("nested")[0])
    agent = memo_lightning.load(tmp_path / "x.ckpt")
    actor, space = BatchedActor(agent), agent.observation_space
    space.seed(0)
    observations = [plain(space.sample()) for _ in range(20)]
    alone, together, bad = (actor.player(seed, False) for seed in (1, 1, 2))
    for t, observation in enumerate(observations):
        told = {"observation": observation, "reward": 1.0}
        (expected,) = actor.act([alone], [actor.read(told, alone)])
        # The largest float32 is finite, but the output of a layer for it is not.
        spoilt = {**told, "reward": 3.4e38} if t % 3 == 1 else told
        answer, other = actor.act([together, bad], [actor.read(told, together), actor.read(spoilt, bad)])
        assert np.allclose(answer.action, expected.action, atol=1e-5)
        assert answer.step == t + 1
        assert isinstance(other, UserError) == (t % 3 == 1)
        assert t % 3 == 1 or np.isfinite(other.action).all()


def test_idle_sessions_are_not_touched_and_what_is_held_is_what_is_remembered(tmp_path):
    save_policy(tmp_path / "x.ckpt", make_toy("discrete with start")[0])
    agent = memo_lightning.load(tmp_path / "x.ckpt")
    actor, rng = BatchedActor(agent), np.random.default_rng(0)
    players = [actor.player(None, False) for _ in range(40)]

    def act(members):
        steps = [actor.read({"observation": 3}, players[i]) for i in members]
        actor.act([players[i] for i in members], steps)

    act(range(40))
    idle = players[30].memory.block
    kept = idle.rows["memory", "keys", "0", "0"][players[30].memory.row].clone()
    for _ in range(60):
        act(rng.permutation(20)[:7])
    block, row = players[30].memory.block, players[30].memory.row
    assert torch.equal(block.rows["memory", "keys", "0", "0"][row], kept)
    longest = max(player.memory.steps for player in players)
    assert actor.memories.nbytes < 40 * 2 * 2 * peak_memory_bytes(agent.policy.sequence_model, longest)
    act(range(20))
    assert len({id(player.memory.block) for player in players[:20]}) == 1
    for player in players:
        actor.forget(player)
    assert actor.memories.nbytes == 0


def test_the_same_sessions_again_are_stepped_in_place(tmp_path):
    save_policy(tmp_path / "x.ckpt", make_toy("discrete with start")[0])
    memories = Memories(memo_lightning.load(tmp_path / "x.ckpt"))
    own = [Memory() for _ in range(3)]
    order, state = memories.gather(own)
    order, again = memories.gather([own[index] for index in (2, 0, 1)])
    assert [(2, 0, 1)[index] for index in order] == [0, 1, 2]
    assert again.memory["keys", "0", "0"].data_ptr() == state.memory["keys", "0", "0"].data_ptr()


def test_a_short_memory_does_not_pay_for_a_long_one(tmp_path):
    save_policy(tmp_path / "x.ckpt", make_toy("discrete with start")[0])
    actor = BatchedActor(memo_lightning.load(tmp_path / "x.ckpt"))
    long, short = actor.player(None, False), actor.player(None, False)
    step = actor.read({"observation": 3}, long)
    for _ in range(1000):
        actor.act([long], [step])
    for _ in range(40):
        actor.act([long, short], [step, step])
    assert long.memory.block is not short.memory.block
    assert short.memory.block.nbytes < long.memory.block.nbytes / 4


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "observation: missing; must be"),
        ({"observation": 7}, "observation 'observation' is 5; its space says Discrete(5, start=2)"),
        ({"observation": [1, 2]}, "observation 'observation' has shape (2,); its space says ()"),
        ({"observation": "seven"}, "observation 'observation' has dtype <U5"),
        ({"observation": None}, "observation 'observation' has dtype object"),
        ({"observation": 3.5}, "observation 'observation' is not an integer"),
        ({"observation": [[1], [1, 2]]}, "observation: contains lists of different lengths"),
        ({"observation": 3, "reward": float("nan")}, "the reward is nan: must be finite"),
        ({"observation": 3, "reward": 1e300}, "the reward is inf: must be finite"),
        ({"observation": 3, "reward": "much"}, "reward='much': must be a number"),
        ({"observation": 3, "reward": 10**400}, "reward"),
        ({"observation": 3, "is_first": "yes"}, "is_first='yes': must be true or false"),
        ({"observation": 3, "episode_end": [1]}, "episode_end=[1]: must be true or false"),
    ],
)
def test_what_does_not_fit_is_one_line(told, message, tmp_path):
    save_policy(tmp_path / "x.ckpt", make_toy("discrete with start")[0])
    actor = BatchedActor(memo_lightning.load(tmp_path / "x.ckpt"))
    with pytest.raises(UserError) as error:
        actor.read(told, actor.player(None, False))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_masks_that_do_not_fit_are_one_line(tmp_path):
    save_policy(tmp_path / "x.ckpt", make_toy("masked")[0])
    actor = BatchedActor(memo_lightning.load(tmp_path / "x.ckpt"))
    for mask, message in {
        None: "action_mask: missing",
        (True,): "action_mask has shape (1,); must be (4,)",
        (False,) * 4: "action_mask allows no action",
        ((1,), (1, 2)): "action_mask: contains lists of different lengths",
    }.items():
        told = {"observation": [0, 0, 0], "action_mask": None if mask is None else [*mask]}
        with pytest.raises(UserError) as error:
            actor.read(told, actor.player(None, False))
        assert message in str(error.value)
