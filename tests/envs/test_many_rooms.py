"""Many rooms: each episode is Dark-Key-To-Door in one room; rooms keep their layout for a whole trial."""

import pytest
import torch
from torchrl.envs import check_env_specs

from memo_lightning.envs import ManyRooms
from memo_lightning.errors import UserError

SETTINGS = {"n_rooms": 3, "room_size": 3, "episode_length": 5, "trial_length": 60}


def room_of(observation):
    return observation[..., 7:10].argmax(-1)


def layouts(env):
    return [(int(r), *k, *d) for r, k, d in zip(env.room, env.key.tolist(), env.door.tolist(), strict=True)]


def test_specs_hold():
    check_env_specs(ManyRooms(n_envs=3, **SETTINGS))


def test_the_room_is_shown_and_stays_for_an_episode():
    env = ManyRooms(n_envs=50, **SETTINGS)
    torch.manual_seed(0)
    rows = env.rollout(60)
    room = room_of(rows["observation", "observation"])
    after_end = rows["episode_end"].squeeze(-1)
    assert (room[:, 1:] == room[:, :-1])[~after_end[:, 1:]].all()
    share = torch.bincount(room[after_end], minlength=3) / after_end.sum()
    assert (share - 1 / 3).abs().max() < 0.05, "each as likely, whichever was before"
    stays = (room[:, 1:] == room[:, :-1])[after_end[:, 1:]].float().mean()
    assert abs(stays - 1 / 3) < 0.05


def test_rooms_keep_their_layout_for_a_trial_and_the_next_trial_has_others():
    env = ManyRooms(n_envs=40, **SETTINGS)
    td = env.reset()
    trials = []
    for _ in range(2):
        seen = [{} for _ in range(40)]
        for step in range(60):
            for held, (room, *layout) in zip(seen, layouts(env), strict=True):
                assert held.setdefault(room, layout) == layout
            step_and_next = env.step_and_maybe_reset(env.rand_action(td))
            td = step_and_next[1]
            assert step_and_next[0]["next", "done"].all() == (step == 59)
        trials.append(seen)
    same = [one[room] == other[room] for one, other in zip(*trials, strict=True) for room in one.keys() & other.keys()]
    assert sum(same) < 0.1 * len(same)
    different = [len({tuple(layout) for layout in seen.values()}) for seen in trials[0]]
    assert sum(different) > 100, "rooms of one trial differ"


def test_the_rooms_of_a_trial_do_not_depend_on_how_earlier_trials_went():
    """One policy opens doors and so begins more episodes in a trial; the other does nothing."""
    visited = []
    for solves in (True, False):
        env = ManyRooms(n_envs=4, **SETTINGS)
        td, rooms = env.reset(), []
        for step in range(3 * 60):
            if step % 60 == 0:
                rooms.append(env.room.tolist())
            td["action"] = oracle(env) if solves else torch.zeros(4, dtype=torch.int64)
            _, td = env.step_and_maybe_reset(td)
        visited.append(rooms)
    assert visited[0] == visited[1]


def oracle(env):
    """Return the actions of an agent that knows the layout: to the key, then to the door."""
    target = torch.where(env._has_key.unsqueeze(-1), env.door, env.key)
    row, column = (target - env._position).unbind(-1)
    vertical = torch.where(row < 0, 1, 2)
    horizontal = torch.where(column < 0, 3, torch.where(column > 0, 4, 0))
    return torch.where(row != 0, vertical, horizontal)


def test_who_knows_all_layouts_opens_every_door():
    env = ManyRooms(n_envs=200, **{**SETTINGS, "episode_length": 10})
    td = env.reset()
    ends, successes, wanders = 0, 0, []
    for _ in range(60):
        td = env.step(td.set("action", oracle(env)))["next"]
        ends, successes = ends + int(td["episode_end"].sum()), successes + int(td["success"].sum())
    wandering = ManyRooms(n_envs=200, **{**SETTINGS, "episode_length": 10})
    torch.manual_seed(0)
    wanders = wandering.rollout(60)["next", "success"]
    assert successes == ends > 1500
    assert successes > 4 * int(wanders.sum())


def test_held_out_layouts_are_never_trained_on():
    seen = {}
    for split in ("train", "held_out"):
        env = ManyRooms(n_envs=3000, split=split, **SETTINGS)
        env.reset()
        seen[split] = {tuple(layout[1:]) for layout in layouts(env)}
    assert not seen["train"] & seen["held_out"]
    assert len(seen["train"] | seen["held_out"]) == 9 * 8, "together all"


def test_results_do_not_depend_on_the_number_of_environments():
    def rollout(n, seed):
        env = ManyRooms(n_envs=n, seed=seed, **SETTINGS)
        generator = torch.Generator().manual_seed(0)
        actions = torch.randint(0, 5, (100, 130), generator=generator)[:n]
        taken = iter(actions.unbind(1))
        return env.rollout(130, lambda td: td.set("action", next(taken)), break_when_any_done=False)

    few, many, other = rollout(4, 7), rollout(30, 7), rollout(4, 8)
    for key in few.keys(True, True):
        assert torch.equal(few[key], many[:4][key]), key
    assert not torch.equal(few["observation", "observation"], other["observation", "observation"])


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match=r"env.n_rooms=0: must be at least 1"):
        ManyRooms(n_envs=2, **{**SETTINGS, "n_rooms": 0})
