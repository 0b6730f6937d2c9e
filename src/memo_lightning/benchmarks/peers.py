"""A comparison with SB3-contrib's RecurrentPPO at equal training time: ``python -m memo_lightning.benchmarks.peers``.

Needs the extra ``peers`` and idle cores. Trains this project's Memo and LSTM and SB3-contrib's RecurrentPPO, one after
the other on the same environments, with the same discount, epochs, learning rate and, where it has them, sizes. Only
training time counts, not the time before the first step.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import gymnasium
import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from memo_lightning.benchmarks.script import parser, report
from memo_lightning.callbacks.after_rollout import AfterRollout
from memo_lightning.config import compose_config
from memo_lightning.envs.build import build_env
from memo_lightning.training.learner import PolicyLearner
from memo_lightning.training.train import train

Point = tuple[float, int, float]
"""Seconds of training, environment frames, and the mean return of the trials that have ended last."""

_LAST_TRIALS = 640


class Clock(AfterRollout):
    """A callback that records the progress of a training run and stops it when its time is up.

    Args:
        seconds: training time.
        path: JSON file to which the points are written.
    """

    def __init__(self, seconds: float, path: str) -> None:
        self._seconds, self._path, self._points = seconds, Path(path), list[Point]()
        self._begin = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._begin = time.perf_counter()

    def after_rollout(self, trainer: lightning.Trainer, learner: PolicyLearner) -> None:
        """Record a point."""
        seconds = time.perf_counter() - self._begin
        score = float(trainer.callback_metrics["train/return_per_trial"])
        self._points.append((seconds, learner.frames, score))
        self._path.write_text(json.dumps(self._points))
        if seconds > self._seconds:
            trainer.should_stop = True


def train_ours(overrides: Sequence[str], seconds: float) -> list[Point]:
    """Run ``memo train`` with ``overrides`` for ``seconds``, and return its points."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        path = f"{folder}/points.json"
        clock = ["+callbacks.clock._target_=memo_lightning.benchmarks.peers.Clock", f"+callbacks.clock.path={path}"]
        given = [*overrides, "total_frames=1000000000", "logger=none", f"run_dir={folder}/run"]
        train(compose_config("train", [*given, *clock, f"+callbacks.clock.seconds={seconds}"]))
        return [(point[0], point[1], point[2]) for point in json.loads(Path(path).read_text())]


class Trials(VecEnv):
    """The environments of a configuration as an SB3 ``VecEnv``, whose episodes are this project's trials.

    Observations are what this project's policies see: the observation and the previous step, concatenated.

    Args:
        config: a node of ``conf/env/`` whose observation is a vector.
        n_envs: number of environments N.
    """

    def __init__(self, config: DictConfig, n_envs: int) -> None:
        self._env = build_env(config, n_envs, seed=0)
        self._carrier = self._env.reset()
        self._returns = np.zeros(n_envs, np.float32)
        self.ended: deque[float] = deque(maxlen=_LAST_TRIALS)
        n_inputs = self._observed().shape[1]
        space = gymnasium.spaces.Box(-np.inf, np.inf, (n_inputs,), np.float32)
        super().__init__(n_envs, space, gymnasium.spaces.Discrete(self._env.action_spec.space.n))

    def _observed(self) -> NDArray[np.float32]:
        parts = [self._carrier["observation", "observation"], self._carrier["previous_step"]]
        return torch.cat(parts, dim=-1).numpy().copy()

    def reset(self) -> NDArray[np.float32]:
        """Begin a trial in every environment and return observations ``[N, n]``."""
        self._carrier, self._returns[:] = self._env.reset(), 0
        return self._observed()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Set ``actions [N]`` for the next step."""
        self._carrier["action"] = torch.as_tensor(actions)

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step and return observations, rewards, ends of trials and infos; a new trial follows one that has ended."""
        stepped, self._carrier = self._env.step_and_maybe_reset(self._carrier)
        rewards = stepped["next", "reward"].squeeze(-1).numpy().copy()
        ends = stepped["next", "done"].squeeze(-1).numpy().copy()
        self._returns += rewards
        self.ended.extend(self._returns[ends].tolist())
        self._returns[ends] = 0
        return self._observed(), rewards, ends, [{} for _ in range(self.num_envs)]

    def close(self) -> None:
        """Close the environments."""
        self._env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute, the same for all environments."""
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raise ``NotImplementedError``: there is nothing to set."""
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Raise ``NotImplementedError``: environments have no methods of their own."""
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Report that no environment is wrapped."""
        return [False] * self.num_envs


def train_sb3(seconds: float) -> list[Point]:
    """Train SB3-contrib's RecurrentPPO, its LSTM as wide as Memo, and return its points."""
    from sb3_contrib import RecurrentPPO

    config = compose_config("train", [])
    ppo, length, n_envs = config.algorithm, config.env.trial_length, config.collector.n_envs
    env = Trials(config.env, n_envs)
    points: list[Point] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return not points or points[-1][0] < seconds

        def _on_rollout_start(self) -> None:
            if env.ended:
                points.append((time.perf_counter() - begin, self.num_timesteps, float(np.mean(env.ended))))

    model = RecurrentPPO(
        "MlpLstmPolicy",
        env,
        learning_rate=ppo.learning_rate,
        n_steps=length,
        batch_size=length * n_envs // ppo.n_minibatches,
        n_epochs=ppo.n_epochs,
        gamma=ppo.gamma,
        gae_lambda=ppo.gae_lambda,
        clip_range=ppo.clip_epsilon,
        ent_coef=ppo.entropy_coef,
        vf_coef=ppo.value_coef,
        max_grad_norm=ppo.max_grad_norm,
        policy_kwargs={"lstm_hidden_size": config.model.d_model, "net_arch": []},
        seed=config.seed,
        device="cpu",
    )
    begin = time.perf_counter()
    model.learn(10**9, callback=Watch())
    env.close()
    return points


def summarise(points: Sequence[Point], at: Sequence[float]) -> dict[str, Any]:
    """Return frames per second, and the return after each of the given seconds of training."""
    reached = {f"{second:g}": next((score for when, _, score in points if when >= second), None) for second in at}
    return {"frames_per_second": round(points[-1][1] / points[-1][0]), "return_after_seconds": reached}


def measure(at: Sequence[float]) -> dict[str, Any]:
    """Train all three, and return their summaries with threads and versions."""
    seconds = max(at) + 1
    versions = {name: importlib.metadata.version(name) for name in ("torch", "stable-baselines3", "sb3-contrib")}
    found = {
        "memo": summarise(train_ours([], seconds), at),
        "lstm": summarise(train_ours(["baseline=lstm"], seconds), at),
        "sb3_recurrent_ppo": summarise(train_sb3(seconds), at),
    }
    return {"threads": torch.get_num_threads(), "versions": versions, "trained": found}


def main(arguments: Sequence[str]) -> None:
    """Measure, print the results, and write them to ``--out`` if it is given."""
    options = parser("peers", __doc__)
    options.add_argument(
        "seconds",
        nargs="*",
        type=float,
        default=[60.0, 120.0, 240.0],
        help="training times in seconds at which the return is reported",
    )
    chosen = options.parse_args(arguments)
    report(measure(chosen.seconds), chosen.out)


if __name__ == "__main__":
    main(sys.argv[1:])
