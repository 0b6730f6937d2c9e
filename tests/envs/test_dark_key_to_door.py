"""Dark-Key-To-Door: its rules, trials, random streams and splits."""

import pytest
import torch
from torchrl.envs import check_env_specs

from memo_lightning.envs import DarkKeyToDoor
from memo_lightning.errors import UserError

SETTINGS = {"room_size": 5, "episode_length": 6, "trial_length": 20}
MOVES = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]


def layouts(env):
    """Return the cells of key and door in every environment."""
    return [(tuple(key), tuple(door)) for key, door in zip(env._key.tolist(), env._door.tolist(), strict=True)]


def random_rollout(env, steps, generator_seed=0):
    generator = torch.Generator().manual_seed(generator_seed)
    actions = torch.randint(0, 5, (1000, steps), generator=generator)[: env.batch_size[0]]

    def policy(td):
        policy.step += 1
        return td.set("action", actions[:, policy.step - 1])

    policy.step = 0
    return env.rollout(steps, policy, break_when_any_done=False, auto_cast_to_device=True)


@pytest.mark.parametrize("lit", [False, True])
def test_specs_hold(lit):
    check_env_specs(DarkKeyToDoor(n_envs=3, lit=lit, **SETTINGS))


@pytest.mark.parametrize("reset_costs_a_step", [False, True])
def test_rules_equal_a_plain_python_room(reset_costs_a_step):
    env = DarkKeyToDoor(n_envs=64, seed=5, reset_costs_a_step=reset_costs_a_step, **SETTINGS)
    env.reset()
    tasks = layouts(env)
    env.set_seed(5)
    rollout = random_rollout(env, SETTINGS["trial_length"])
    for index, (key, door) in enumerate(tasks):
        position, has_key, step, total = (2, 2), False, 0, 0.0
        for t in range(SETTINGS["trial_length"]):
            seen = rollout["observation", "observation"][index, t]
            assert (seen[:5].argmax(), seen[5:10].argmax()) == position
            assert seen[10] == has_key
            assert seen[11] == pytest.approx(step / 6)
            moves = step > 0 or not reset_costs_a_step
            move = MOVES[int(rollout["action"][index, t])] if moves else (0, 0)
            position = tuple(min(4, max(0, p + m)) for p, m in zip(position, move, strict=True))
            reward = 0.0
            if position == key and not has_key:
                has_key, reward = True, reward + 1
            success = position == door and has_key
            reward += success
            step, total = step + 1, total + reward
            after = rollout["next"][index, t]
            assert after["reward"] == reward
            assert after["success"] == success
            assert after["episode_return"] == total
            assert after["episode_length"] == step
            assert after["episode_end"] == (success or step == 6)
            assert after["done"] == after["terminated"] == (t == 19)
            if after["episode_end"]:
                position, has_key, step, total = (2, 2), False, 0, 0.0


def test_a_trial_keeps_its_task_and_the_next_draws_another():
    env = DarkKeyToDoor(n_envs=50, **SETTINGS)
    td = env.reset()
    first = layouts(env)
    for _ in range(SETTINGS["trial_length"] - 1):
        td = env.step(env.rand_action(td))["next"]
        assert layouts(env) == first
    env.step_and_maybe_reset(env.rand_action(td))
    assert sum(a == b for a, b in zip(first, layouts(env), strict=True)) < 5


def test_partial_reset_touches_only_the_environments_it_names():
    env = DarkKeyToDoor(n_envs=4, **SETTINGS)
    td = env.reset()
    for _ in range(3):
        td = env.step(env.rand_action(td))["next"]
    before, observed = layouts(env), td["observation", "observation"].clone()
    named = torch.tensor([True, False, True, False]).unsqueeze(-1)
    after = env.reset(td.set("_reset", named))
    assert [layouts(env)[i] == before[i] for i in (1, 3)] == [True, True]
    assert torch.equal(after["observation", "observation"][[1, 3]], observed[[1, 3]])
    assert env._trial_step.tolist() == [0, 3, 0, 3]


def test_results_do_not_depend_on_the_environments_beside():
    few, many = (random_rollout(DarkKeyToDoor(n_envs=n, seed=7, **SETTINGS), 60) for n in (3, 40))
    for key in few.keys(True, True):
        assert torch.equal(few[key], many[:3][key]), key


def test_same_seed_same_tasks_and_other_seed_other_tasks():
    def tasks(seed):
        env = DarkKeyToDoor(n_envs=30, seed=seed, **SETTINGS)
        env.reset()
        return layouts(env)

    assert tasks(1) == tasks(1)
    assert tasks(1) != tasks(2)


def test_training_and_held_out_tasks_are_disjoint_and_together_all():
    sizes = {}
    seen = {}
    for split in ("train", "held_out", "all"):
        env = DarkKeyToDoor(n_envs=20_000, split=split, seed=1, **SETTINGS)
        env.reset()
        seen[split], sizes[split] = set(layouts(env)), len(env._tasks)
    assert sizes["train"] + sizes["held_out"] == sizes["all"] == 25 * 24
    assert not seen["train"] & seen["held_out"]
    assert seen["train"] | seen["held_out"] == seen["all"]
    assert len(seen["all"]) == 25 * 24, "every pair of different cells is a task"
    assert 0.15 < sizes["held_out"] / sizes["all"] < 0.25


def test_a_lit_room_shows_key_and_door():
    env = DarkKeyToDoor(n_envs=8, lit=True, **SETTINGS)
    shown = env.reset()["observation", "observation"][:, :30].unflatten(1, (6, 5)).argmax(-1).tolist()
    assert [((k0, k1), (d0, d1)) for _, _, k0, k1, d0, d1 in shown] == layouts(env)


def test_layouts_change_within_a_trial_at_the_first_episode_of_each_part():
    env = DarkKeyToDoor(n_envs=50, layouts_per_trial=3, **{**SETTINGS, "trial_length": 60})
    td = env.reset()
    seen, begins = [layouts(env)], [[True] * 50]
    for _ in range(59):
        td = env.step(env.rand_action(td))["next"]
        seen.append(layouts(env))
        begins.append(td["episode_end"].squeeze(-1).tolist())
    for index in range(50):
        layout, held = seen[0][index], {}
        for step in range(60):
            part = step // 20
            if begins[step][index]:  # an episode uses the layout of the part in which it begins
                layout = held.setdefault(part, seen[step][index])
            assert seen[step][index] == layout, (index, step)
    changed = [sum(a != b for a, b in zip(seen[0], seen[k], strict=True)) for k in (30, 59)]
    assert min(changed) > 40, "layouts are drawn anew, and few are drawn twice"


def test_layouts_after_the_first_belong_to_the_split_and_do_not_change_the_first():
    changing = DarkKeyToDoor(n_envs=200, layouts_per_trial=10, split="held_out", **SETTINGS)
    fixed = DarkKeyToDoor(n_envs=200, split="held_out", **SETTINGS)
    every = DarkKeyToDoor(n_envs=20_000, split="held_out", seed=1, **SETTINGS)
    td, _, _ = changing.reset(), fixed.reset(), every.reset()
    assert layouts(changing) == layouts(fixed)
    held_out = set(layouts(every))
    for _ in range(SETTINGS["trial_length"] - 1):
        td = changing.step(changing.rand_action(td))["next"]
        assert set(layouts(changing)) <= held_out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layouts_per_trial": 0}, r"env.layouts_per_trial=0: must be at least 1 and at most env.trial_length=20"),
        ({"layouts_per_trial": 21}, r"env.layouts_per_trial=21"),
        ({"split": "test"}, r"env.split='test': must be one of train, held_out, all"),
        ({"room_size": 1}, r"env.room_size=1: must be at least 2"),
        ({"episode_length": 21}, r"env.episode_length=21: .* env.trial_length=20"),
        ({"trial_length": 0}, r"env.trial_length=0"),
        ({"n_envs": 0}, r"n_envs=0"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        DarkKeyToDoor(**{"n_envs": 2, **SETTINGS, **change})
