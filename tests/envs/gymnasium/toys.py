"""Environments whose every step is predictable, and environments that fail."""

import copy
import os
import signal
import time
from functools import partial

import gymnasium
import numpy as np
from gymnasium import spaces


class Walk(gymnasium.Env):
    """Each episode has a random number of steps; the observation shows seed (in two halves), length and step."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = spaces.Discrete(3, start=-1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.given, self.options, self.t = seed, options, 0
        self.length = int(self.np_random.integers(2, 6))
        return self._observe(), {}

    def step(self, action):
        assert action in (-1, 0, 1)
        self.t += 1
        return self._observe(), float(action), self.t == self.length, False, {"success": action == 1}

    def render(self):
        return np.full((2, 2, 3), self.t, np.uint8)

    def _observe(self):
        return np.array([*divmod(self.given, 65536), self.length, self.t], np.float64)


class OwnTrials(gymnasium.Env):
    """Makes its own trials of three episodes with two steps each."""

    observation_space = spaces.Dict({"goal": spaces.Discrete(4), "position": spaces.Box(0, 6, (1,), np.float32)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return {"goal": 0, "position": np.zeros(1, np.float32)}, {"episode_end": False}

    def step(self, action):
        self.t += 1
        observation = {"goal": self.t // 2, "position": np.full(1, self.t, np.float32)}
        return observation, 1.0, False, self.t == 6, {"episode_end": self.t % 2 == 0, "success": self.t == 4}


class Clock(gymnasium.Env):
    """Shows the step of the episode, with a reward of one per step. Step ``end`` is a true end; there is no limit."""

    observation_space = spaces.Box(0, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, end=None):
        self.end = end

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        return self._observe(), 1.0, self.t == self.end, False, {}

    def _observe(self):
        return np.full(1, self.t, np.float32)


class OwnLimits(Clock):
    """Makes its own trials of seven steps, truncated at the end; within them every third step truncates an episode."""

    def __init__(self, tells_final):
        self.tells_final = tells_final

    def reset(self, *, seed=None, options=None):
        self.trial_step = 0
        observation, _ = super().reset()
        return observation, {"episode_end": False}

    def step(self, action):
        self.trial_step += 1
        self.t += 1
        observation, info = self._observe(), {"episode_end": self.t == 3}
        if self.t == 3:
            info["episode_truncated"] = True
            if self.tells_final:
                info["final_obs"] = observation
            observation, _ = super().reset()
        return observation, 1.0, False, self.trial_step == 7, info


class Keeps(Walk):
    """Keeps its task across resets when asked to."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if options["new_task"]:
            self.task = self.given
        return self._observe(), {}

    def _observe(self):
        return np.array([*divmod(getattr(self, "task", 0), 65536), self.length, self.t], np.float64)


class Faulty(gymnasium.Env):
    """Fails at its third step, as ``fault`` says."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, fault):
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        observation, reward = np.zeros(2, np.float32), 0.0
        if self.t == 3:
            match self.fault:
                case "raise":
                    raise RuntimeError("the motor is on fire")
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "exit":
                    os._exit(7)
                case "hang":
                    time.sleep(1000)
                case "shape":
                    observation = np.zeros(3, np.float32)
                case "dtype":
                    observation = np.array(["a", "b"])
                case "reward":
                    reward = None
        return observation, reward, False, False, {}


class Everything(gymnasium.Env):
    """Has random observations of every kind and several discrete actions."""

    observation_space = spaces.Dict(
        {
            "vector": spaces.Box(-2, 4, (2, 2), np.float32),
            "choice": spaces.Discrete(5, start=3),
            "choices": spaces.MultiDiscrete([2, 3]),
            "flags": spaces.MultiBinary(3),
            "image": spaces.Box(0, 255, (12, 10, 3), np.uint8),
            "first": spaces.Box(0, 255, (3, 12, 10), np.uint8),
            "grey": spaces.Box(0, 255, (9, 9), np.uint8),
            "pair": spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (1,), np.float32)]),
        }
    )
    action_space = spaces.MultiDiscrete([2, 4])

    def __init__(self):
        self.observation_space = copy.deepcopy(self.observation_space)  # own random numbers for each

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        self.last = self.observation_space.sample()
        return self.last, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.last = self.observation_space.sample()
        return self.last, 0.0, False, False, {}


class Picky(gymnasium.Env):
    """Draws the allowed actions at every step, and raises at any other.

    Args:
        action_space: Discrete or MultiDiscrete.
        where: whether the mask is in ``info`` or in the ``observation``.
        fault: mistake in the mask of the third step: wrong ``shape``, ``none`` allowed, or ``missing``.
    """

    def __init__(self, action_space, where="info", fault=None):
        self.action_space, self.where, self.fault = copy.deepcopy(action_space), where, fault
        several = isinstance(action_space, spaces.MultiDiscrete)
        self.sizes = action_space.nvec.tolist() if several else [int(action_space.n)]
        self.observation_space = spaces.Dict(t=spaces.Box(0, 9, (1,), np.float32))
        if where == "observation":
            self.observation_space["action_mask"] = spaces.MultiBinary(sum(self.sizes))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observe()

    def step(self, action):
        chosen = np.atleast_1d(action) - np.atleast_1d(self.action_space.start)
        for allowed, choice in zip(self.allowed, chosen, strict=True):
            if not allowed[choice]:
                raise ValueError(f"action {action} is not allowed")
        self.t += 1
        observation, info = self._observe()
        return observation, 1.0, self.t == 9, False, info

    def _observe(self):
        self.allowed = [self.np_random.random(n) < 0.4 for n in self.sizes]
        for allowed in self.allowed:
            allowed[self.np_random.integers(len(allowed))] = True
        mask = np.concatenate(self.allowed).astype(np.int8)
        observation, info = {"t": np.full(1, self.t, np.float32)}, {}
        if self.t == 3 and self.fault == "shape":
            mask = mask[1:]
        if self.t == 3 and self.fault == "none":
            mask = np.concatenate([mask[: -self.sizes[-1]], np.zeros(self.sizes[-1], np.int8)])
        if not (self.t == 3 and self.fault == "missing"):
            (observation if self.where == "observation" else info)["action_mask"] = mask
        return observation, info


class Slow(Walk):
    """A step sleeps for ten milliseconds, which leaves the processor free."""

    def step(self, action):
        time.sleep(1e-2)
        return super().step(action)


class Busy(Walk):
    """A step computes for two fifths of a second."""

    def step(self, action):
        end = time.process_time() + 0.4
        while time.process_time() < end:
            pass
        return super().step(action)


def faulty(fault):
    return partial(Faulty, fault)
