"""The passive T-Maze, compared with a plain Python maze; the value of memory in it."""

import pytest
import torch
from torchrl.envs import check_env_specs

from memo_lightning.envs import TMaze
from memo_lightning.errors import UserError

LENGTH = 6  # of the corridor, steps


def rollout(env, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    # Mostly forward, so that walking agents reach the junction too.
    draws = torch.randint(0, 12, (1000, steps), generator=generator)[: env.batch_size[0]]
    taken = iter(torch.where(draws > 3, 0, draws).unbind(1))
    return env.rollout(steps, lambda td: td.set("action", next(taken)), break_when_any_done=False)


@pytest.mark.parametrize("carried", [True, False])
def test_specs_hold(carried):
    check_env_specs(TMaze(n_envs=3, trial_length=5, carried=carried))


@pytest.mark.parametrize("carried", [True, False])
def test_rules_equal_a_plain_python_maze(carried):
    steps = rollout(TMaze(n_envs=200, trial_length=LENGTH + 1, carried=carried, seed=2), 2 * (LENGTH + 1))
    successes = 0
    for trajectory in steps:
        for t in range(2 * (LENGTH + 1)):
            seen = int(trajectory["observation", "observation"][t].argmax())
            action, after = int(trajectory["action"][t]), trajectory["next"][t]
            if t % (LENGTH + 1) == 0:
                assert trajectory["episode_length"][t] == 0
                assert seen in (0, 1)
                position, step, cue = 0, 0, seen
            place = 3 if position == LENGTH else 2 if position else cue
            assert seen == place
            step += 1
            if position == LENGTH:
                success = action == 2 + cue
                reward = float(success)
            else:
                success = False
                position = position + 1 if carried else max(0, position + {0: 1, 1: -1}.get(action, 0))
                behind = action != 0 if carried else position < step
                reward = -behind / LENGTH
            successes += success
            assert after["reward"] == pytest.approx(reward)
            assert after["success"] == success
            assert after["done"] == after["episode_end"] == (step == LENGTH + 1)
    assert successes > 0


@pytest.mark.parametrize("remembers", [True, False])
def test_success_takes_a_memory(remembers):
    env = TMaze(n_envs=400, trial_length=11, seed=1)
    td = env.reset()
    cue = td["observation", "observation"][:, 1].long()
    choice = 2 + (cue if remembers else torch.zeros_like(cue))
    for t in range(11):
        td = env.step(td.set("action", choice if t == 10 else torch.zeros_like(choice)))["next"]
    success = td["success"].float().mean().item()
    assert success == 1 if remembers else 0.4 < success < 0.6
    assert td["episode_return"].mean().item() == pytest.approx(success)


def test_results_do_not_depend_on_the_environments_beside():
    few, many, other = (rollout(TMaze(n_envs=n, trial_length=4, seed=s), 12) for n, s in ((9, 7), (40, 7), (9, 8)))
    for key in few.keys(True, True):
        assert torch.equal(few[key], many[:9][key]), key
    assert not torch.equal(few["observation", "observation"], other["observation", "observation"])


def test_images_show_cue_and_agent():
    env = TMaze(n_envs=2, trial_length=5)
    td = env.reset()
    before = env.image(0)
    assert before.shape == (3 * 40, 5 * 40, 3)
    env.step(td.set("action", torch.zeros(2, dtype=torch.int64)))
    changed = (env.image(0) != before).any(-1).any(0).nonzero()[0]
    assert 0 <= changed.min() < 40 <= changed.max() < 80, "the agent went from the first cell to the second"
    assert TMaze(n_envs=1, trial_length=5001).image().shape == (120, 25 * 40, 3), "a long corridor is drawn to scale"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"trial_length": 1}, "env.trial_length=1: must be at least 2"), ({"split": "test"}, "env.split='test'")],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        TMaze(n_envs=2, **change)
