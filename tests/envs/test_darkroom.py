"""Darkroom, compared with a plain Python room; its tasks and images."""

import pytest
import torch
from torchrl.envs import check_env_specs

from memo_lightning.envs import DarkKeyToDoor, Darkroom
from memo_lightning.errors import UserError

SETTINGS = {"room_size": 3, "episode_length": 6, "trial_length": 18}
MOVES = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]


def goals(env):
    return [tuple(goal) for goal in env._goal.tolist()]


@pytest.mark.parametrize("lit", [False, True])
def test_specs_hold(lit):
    check_env_specs(Darkroom(n_envs=3, lit=lit, **SETTINGS))


def test_rules_equal_a_plain_python_room():
    env = Darkroom(n_envs=64, seed=5, split="all", **SETTINGS)
    env.reset()
    tasks = goals(env)
    env.set_seed(5)
    torch.manual_seed(0)
    rollout = env.rollout(18)
    for trajectory, goal in zip(rollout, tasks, strict=True):
        position, step, total = (1, 1), 0, 0
        for t in range(18):
            seen = trajectory["observation", "observation"][t]
            assert (seen[:3].argmax(), seen[3:6].argmax()) == position
            assert seen[6] == pytest.approx(step / 6)
            move = MOVES[int(trajectory["action"][t])]
            position = tuple(min(2, max(0, p + m)) for p, m in zip(position, move, strict=True))
            step, total = step + 1, total + (position == goal)
            after = trajectory["next"][t]
            assert after["reward"] == (position == goal)
            assert after["episode_return"] == total
            assert after["success"] == (total > 0)
            assert after["episode_end"] == (step == 6), "reaching the goal ends nothing"
            assert after["done"] == (t == 17)
            if step == 6:
                position, step, total = (1, 1), 0, 0
    assert rollout["next", "reward"].sum() > 0


def test_tasks_are_all_cells_but_the_middle_and_split_in_two():
    seen = {}
    for split in ("train", "held_out", "all"):
        env = Darkroom(n_envs=2000, split=split, **{**SETTINGS, "room_size": 5})
        env.reset()
        seen[split] = set(goals(env))
    assert seen["all"] == {(row, column) for row in range(5) for column in range(5)} - {(2, 2)}
    assert not seen["train"] & seen["held_out"]
    assert seen["train"] | seen["held_out"] == seen["all"]


def test_a_lit_room_shows_its_goal():
    env = Darkroom(n_envs=8, lit=True, **SETTINGS)
    shown = env.reset()["observation", "observation"][:, 6:12].unflatten(1, (2, 3)).argmax(-1).tolist()
    assert [tuple(cell) for cell in shown] == goals(env)


@pytest.mark.parametrize("make", [Darkroom, DarkKeyToDoor])
def test_images_show_the_agent_and_what_it_looks_for(make):
    env = make(n_envs=3, room_size=5)
    td = env.reset()
    before = env.image(1)
    assert before.shape == (200, 200, 3)
    assert before.dtype.name == "uint8"
    marks = {tuple(cell.tolist()) for cell in env._landmarks() for cell in cell[1:2]} | {(2, 2)}
    drawn = {(r, c) for r in range(5) for c in range(5) if tuple(before[r * 40 + 20, c * 40 + 20]) != (236, 236, 230)}
    assert drawn == marks
    env.step(td.set("action", torch.tensor([0, 1, 0])))
    assert tuple(env.image(1)[1 * 40 + 30, 2 * 40 + 20]) == (31, 90, 170), "one cell up"


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match=r"env.room_size=1: must be at least 2"):
        Darkroom(n_envs=2, **{**SETTINGS, "room_size": 1})
