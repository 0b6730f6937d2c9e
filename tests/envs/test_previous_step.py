"""RL^2 inputs: last action, reward and end of episode."""

import pytest
import torch
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase, TransformedEnv, check_env_specs

from memo_lightning.envs import DarkKeyToDoor, PreviousStep
from memo_lightning.envs.interface import interface_of


class Drift(EnvBase):
    """A toy with continuous actions: the reward is the sum of the action, and a trial has five steps."""

    def __init__(self):
        super().__init__(batch_size=[2])
        self.observation_spec = Composite(
            observation=Composite(observation=Unbounded((2, 1)), shape=(2,)),
            episode_end=Unbounded((2, 1), dtype=torch.bool),
            shape=(2,),
        )
        self.action_spec = Bounded(-1, 1, (2, 3))
        self.reward_spec = Unbounded((2, 1))
        self.t = 0

    def _reset(self, tensordict=None, **_):
        self.t = 0
        return self.empty_step()

    def empty_step(self):
        done = torch.full((2, 1), self.t == 5)
        return self.observation_spec.zero().update({"done": done, "terminated": done.clone()})

    def _step(self, tensordict):
        self.t += 1
        return self.empty_step().set("reward", tensordict["action"].sum(-1, keepdim=True))

    def _set_seed(self, seed):
        pass


def with_previous_step(env):
    return TransformedEnv(env, PreviousStep(interface_of(env).action))


@pytest.mark.parametrize(
    ("make_env", "n_actions"),
    [(lambda: DarkKeyToDoor(n_envs=2, room_size=3, episode_length=2, trial_length=5), 5), (Drift, 3)],
    ids=["discrete", "continuous"],
)
def test_every_step_carries_what_came_before(make_env, n_actions):
    env = with_previous_step(make_env())
    check_env_specs(env)
    torch.manual_seed(0)
    rollout = env.rollout(13, break_when_any_done=False)
    previous = rollout["previous_step"]
    assert previous.shape == (2, 13, n_actions + 2)
    for t in range(13):
        if t % 5 == 0:
            assert (previous[:, t] == 0).all(), "a trial begins with nothing"
            continue
        action = rollout["action"][:, t - 1]
        action = torch.eye(5)[action] if n_actions == 5 else action
        assert torch.equal(previous[:, t, :-2], action)
        assert torch.equal(previous[:, t, -2:-1], rollout["next", "reward"][:, t - 1])
        assert torch.equal(previous[:, t, -1:], rollout["next", "episode_end"][:, t - 1].float())
    assert rollout["next", "reward"].any()


def test_environments_that_are_not_reset_keep_theirs():
    env = with_previous_step(DarkKeyToDoor(n_envs=3, room_size=3, episode_length=2, trial_length=5))
    td = env.step(env.reset().set("action", torch.tensor([1, 2, 3])))["next"]
    after = env.reset(td.set("_reset", torch.tensor([[False], [True], [False]])))
    assert after["previous_step"][:, :5].tolist() == [[0, 1, 0, 0, 0], [0] * 5, [0, 0, 0, 1, 0]]
