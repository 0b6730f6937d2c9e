"""Environments as a user would write them, for ``env=custom``."""

import time

import gymnasium
import numpy as np
import torch
from tensordict import TensorDict
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
from torchrl.envs import DoubleToFloat, EnvBase, GymEnv, ParallelEnv, SerialEnv, TransformedEnv

from memo_lightning.envs import DarkKeyToDoor


class Guess(gymnasium.Env):
    """Shows a number at the first step and asks for it at the last."""

    observation_space = gymnasium.spaces.Box(0, 5, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, steps=4):
        self.steps = steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.number = 0, int(self.np_random.integers(3))
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        over = self.t == self.steps
        return self._observe(), float(over and action == self.number), over, False, {}

    def _observe(self):
        return np.array([self.number if self.t == 0 else 5, self.t], np.float32)


class WithoutBounds(Guess):
    """Has unbounded actions."""

    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def step(self, action):
        observation, _, *rest = super().step(0)
        return observation, float(np.abs(action).max()), *rest


class Scale(gymnasium.ObservationWrapper):
    """Multiplies observations."""

    def __init__(self, env, factor):
        super().__init__(env)
        self.factor = factor
        self.observation_space = gymnasium.spaces.Box(0, 5 * factor, env.observation_space.shape, np.float32)

    def observation(self, observation):
        return observation * self.factor


def make_cart_pole():
    return gymnasium.make("CartPole-v1")


class Unseeded(Guess):
    """Draws from numpy's global random numbers."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = int(np.random.randint(1000)) % 3  # noqa: NPY002 - the mistake that is to be found
        return self._observe(), {}


class Escapes(Guess):
    """Leaves the bounds of its space at its third step only."""

    def _observe(self):
        return super()._observe() + np.array([0, 7 * (self.t == 3)], np.float32)


class Batched(EnvBase):
    """A batched TorchRL environment that knows nothing of trials: the reward is the action's first number."""

    def __init__(self, n_envs):
        super().__init__(batch_size=[n_envs])
        self.observation_spec = Composite(position=Unbounded((n_envs, 2)), shape=(n_envs,))
        self.action_spec = Bounded(-1, 1, (n_envs, 2))
        self.reward_spec = Unbounded((n_envs, 1))
        self.position = torch.zeros(n_envs, 2)

    def _reset(self, tensordict=None, **_):
        which = None if tensordict is None else tensordict.get("_reset", None)
        which = torch.ones(self.batch_size, dtype=torch.bool) if which is None else which.view(self.batch_size)
        self.position = self.position.masked_fill(which.unsqueeze(-1), 0.0)
        return self._results()

    def _step(self, tensordict):
        self.position = self.position + tensordict["action"]
        return self._results().set("reward", tensordict["action"][:, :1].clone())

    def _results(self):
        td = Composite(shape=self.batch_size).zero().set("position", self.position.clone())
        done = (self.position[:, :1] > 3).clone()
        return td.set("done", done).set("terminated", done.clone())

    def _set_seed(self, seed):
        torch.manual_seed(seed or 0)


class Clock(EnvBase):
    """Shows the step of the episode; step ``end`` terminates, step ``limit`` truncates. Batched if given n_envs."""

    def __init__(self, n_envs=None, end=None, limit=None):
        shape = () if n_envs is None else (n_envs,)
        super().__init__(batch_size=shape)
        self.end, self.limit = end, limit
        self.observation_spec = Composite(t=Unbounded((*shape, 1)), shape=shape)
        self.action_spec = Categorical(2, shape=shape)
        self.reward_spec = Unbounded((*shape, 1))
        flag = Binary(n=1, shape=(*shape, 1), dtype=torch.bool)
        ends = {name: flag.clone() for name in ("done", "terminated", "truncated")}
        self.full_done_spec = Composite(ends, shape=shape)
        self.t = torch.zeros(*shape, 1)

    def _reset(self, tensordict=None, **_):
        which = None if tensordict is None else tensordict.get("_reset", None)
        self.t = torch.zeros_like(self.t) if which is None else self.t.masked_fill(which.view(self.t.shape), 0.0)
        return self._results()

    def _step(self, tensordict):
        self.t = self.t + 1
        return self._results().set("reward", torch.ones_like(self.t))

    def _results(self):
        terminated, truncated = self.t == (self.end or -1), self.t == (self.limit or -1)
        ends = {"done": terminated | truncated, "terminated": terminated, "truncated": truncated}
        return TensorDict({"t": self.t.clone(), **ends}, self.batch_size)

    def _set_seed(self, seed):
        pass


def make_single_clock(**settings):
    return Clock(**settings)


class Seeded(Clock):
    """Shows the seed and the split of tasks that it was given."""

    def __init__(self, n_envs=None, split="unsplit"):
        super().__init__(n_envs)
        self.split, self.t0 = split, 0.0

    def _results(self):
        results = super()._results()
        return results.set("t", torch.full_like(results["t"], self.t0))

    def _set_seed(self, seed):
        self.t0 = float(seed % 2)


def make_single_seeded():
    return Seeded()


class Draws(EnvBase):
    """Shows a number that it draws, by TorchRL's convention, from torch's global stream."""

    def __init__(self):
        super().__init__()
        self.observation_spec = Composite(x=Unbounded((1,)))
        self.action_spec = Categorical(2)
        self.reward_spec = Unbounded((1,))

    def _reset(self, tensordict=None, **_):
        return TensorDict({"x": torch.rand(1), "done": torch.zeros(1, dtype=torch.bool)})

    def _step(self, tensordict):
        return self._reset().set("reward", torch.zeros(1))

    def _set_seed(self, seed):
        torch.manual_seed(seed)


def make_transformed_draws():
    return TransformedEnv(Draws(), DoubleToFloat())


def make_serial(n_envs):
    return SerialEnv(n_envs, Draws)


def make_parallel(n_envs):
    return TransformedEnv(ParallelEnv(n_envs, Draws), DoubleToFloat())


class Counts(Guess):
    """Makes its own trials."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"episode_end": False}

    def step(self, action):
        observation, reward, over, *_ = super().step(action)
        return observation, reward, False, False, {"episode_end": over}


class ForgetsOthers(Batched):
    """Resets all environments whenever it should reset only some."""

    def _reset(self, tensordict=None, **_):
        self.position = torch.zeros_like(self.position)
        return self._results()


class Misshapen(Batched):
    """Fails at its third step, as ``fault`` says."""

    def __init__(self, n_envs, fault):
        super().__init__(n_envs)
        self.fault, self.t = fault, 0

    def _step(self, tensordict):
        self.t += 1
        td = super()._step(tensordict)
        if self.t == 3:
            match self.fault:
                case "shape":
                    td["position"] = torch.zeros(*self.batch_size, 3)
                case "dtype":
                    td["position"] = td["position"].double()
                case "key":
                    del td["position"]
                case "raise":
                    raise RuntimeError("the motor is on fire")
                case "hang":
                    time.sleep(100)
        return td


def make_transformed(n_envs, fault):
    return TransformedEnv(Misshapen(n_envs, fault), DoubleToFloat())


def make_and_raise():
    raise ValueError("no such level")


def make_single_torchrl(one_hot=False):
    return GymEnv("CartPole-v1", categorical_action_encoding=not one_hot)


def make_number():
    return 3


class Board(Guess):
    """Shows an image whose channel axis is ambiguous."""

    observation_space = gymnasium.spaces.Box(0, 255, (4, 7, 6), np.uint8)

    def _observe(self):
        return np.full((4, 7, 6), self.t, np.uint8)


class SeedsTorch(Guess):
    """Seeds torch's global random numbers at every reset, as if it were alone in the process."""

    def reset(self, *, seed=None, options=None):
        torch.manual_seed(seed)
        return super().reset(seed=seed)


class SeedsNumpy(Guess):
    """Seeds numpy's global random numbers at every reset, and draws from them."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        np.random.seed(seed)  # noqa: NPY002 - the mistake that is to be found
        self.number = int(np.random.randint(3))  # noqa: NPY002
        return self._observe(), {}


class SeedsTorchInReset(Batched):
    """Seeds torch's global random numbers at every reset, as a TorchRL environment."""

    def _reset(self, tensordict=None, **_):
        torch.manual_seed(3)
        return super()._reset(tensordict)


class SpeaksOfSuccess(Guess):
    """Reports `success` when there is one, and omits it otherwise."""

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"success": True} if reward else {}


def rooms(n_envs, trial_length):
    """Make environments that define their trials themselves."""
    return DarkKeyToDoor(n_envs=n_envs, room_size=4, episode_length=5, trial_length=trial_length)


def rooms_of_fixed_trials(n_envs):
    return rooms(n_envs, trial_length=20)
