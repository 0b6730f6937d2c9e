"""A batch of Gymnasium environments, with the trials that memory is trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Composite, Unbounded
from torchrl.envs import EnvBase

from memo_lightning.envs.failures import named, within
from memo_lightning.envs.gymnasium.make import Wrapper, action_names_of, make_from_id, make_limited, make_wrapped
from memo_lightning.envs.gymnasium.runners import Plan, Runners
from memo_lightning.envs.gymnasium.trial_runner import ArrayKey, SameTask, TrialRules
from memo_lightning.envs.gymnasium.workers import WorkerRunners
from memo_lightning.envs.reports import FINAL_OBSERVATION, MEASURES, REPORTS, SUCCESS, SUCCESS_REPORTED, TRUNCATED
from memo_lightning.errors import require
from memo_lightning.policies.action import ACTION_MASK, Action
from memo_lightning.policies.encoders import OBSERVATION
from memo_lightning.policies.observation_keys import observation_keys, without_keys
from memo_lightning.policies.spec import Interface


def _check_own_trials(name: str, episode_length: int | None, rules: TrialRules) -> None:
    """Raise :class:`UserError` if an environment that makes its own trials would not follow a setting."""
    allowed = f"{{}}, as {name} reports episode_end, and makes its trials itself"
    require(episode_length is None, "env.episode_length", episode_length, allowed.format("null"))
    episodes = rules.episodes_per_trial
    require(episodes in (None, 1), "env.episodes_per_trial", episodes, allowed.format("1 or null"))
    require(rules.same_task == "none", "env.same_task", rules.same_task, allowed.format("none"))


class GymnasiumEnv(EnvBase):
    """Gymnasium environments as a batched TorchRL environment that follows the contract of trials.

    Observations are nested under ``"observation"``: as ``observation``, or with one key for each part of a Dict or
    Tuple. See :class:`~memo_lightning.envs.gymnasium.trial_runner.TrialRunner` for what a trial is and how
    environments are seeded. Results depend neither on the number of environments nor on that of workers.

    An ``action_mask`` in the ``info`` of the first reset, or in a Dict observation, is passed on at every step.

    Args:
        n_envs: number of environments N.
        id: id of a registered environment, e.g. ``CartPole-v1``, or ``my.module:MyEnv-v0``.
        make: function that makes one environment, instead of ``id`` and ``settings``.
        settings: arguments of the registered environment.
        wrappers: dotted paths of Gymnasium wrappers, or callables, applied in this order, after the episode limit.
        ignore: observation keys to leave out.
        images: image layouts by observation key, where the shape does not tell; see
            :class:`~memo_lightning.policies.observation_keys.ObservationKey`.
        mask_actions: whether to obey an action mask, if the environment gives one.
        measures: numbers in the ``info`` of every step to report besides success, such as ``spl``.
        episode_length: steps after which an episode is truncated; None for the registered limit, if any.
        trial_length, episodes_per_trial, same_task, success_return, split, time_limit_is_end: see
            :class:`~memo_lightning.envs.gymnasium.trial_runner.TrialRules`.
        workers: processes to spread the environments over; 0 to run them in this process.
        step_timeout: seconds that a step or reset of all environments, or of those of one worker, may take.
        seed: seed of all random streams.
        device: device of the tensors.

    Attributes:
        interface: the interface to a policy.
        action_names: names of the actions, in order; empty if the environment does not name them.

    Raises:
        UserError: if a setting is wrong, or the environment has observations or actions that are not supported.
        EnvironmentFailure: if an environment raises, dies or hangs, now or later.
    """

    def __init__(
        self,
        *,
        n_envs: int,
        id: str | None = None,
        make: Callable[[], gymnasium.Env] | None = None,
        settings: dict[str, Any] | None = None,
        wrappers: Sequence[str | Wrapper] = (),
        ignore: Sequence[str] = (),
        images: Mapping[str, str] | None = None,
        mask_actions: bool = True,
        measures: Sequence[str] = (),
        episode_length: int | None = None,
        trial_length: int,
        episodes_per_trial: int | None = None,
        same_task: SameTask = "none",
        success_return: float | None = None,
        split: str = "train",
        time_limit_is_end: bool = False,
        workers: int = 0,
        step_timeout: float = 20.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        require(n_envs >= 1, "n_envs", n_envs, "at least 1")
        require(0 <= workers <= n_envs, "env.workers", workers, f"between 0 and n_envs={n_envs}")
        require(step_timeout > 0, "env.step_timeout", step_timeout, "greater than 0")
        require(episode_length is None or episode_length >= 1, "env.episode_length", episode_length, "at least 1")
        require(make is None or not (id or settings), "make", make, "None if id or settings are given")
        if make is None:
            unwrapped = partial(make_from_id, id, settings or {}, episode_length)
        else:
            unwrapped = partial(make_limited, make, episode_length)
        made = partial(make_wrapped, unwrapped, list(wrappers))
        with named(f"environment {id or getattr(make, 'func', make)}", also_mistakes=False):
            first = made()
        if success_return is None and first.spec:
            success_return = first.spec.reward_threshold
        rules = TrialRules(trial_length, episodes_per_trial, same_task, success_return, split, time_limit_is_end)
        keys = observation_keys(first.observation_space, ignore, images)
        name = first.spec.id if first.spec else str(first)
        with named(f"environment 0 ({name})"), within(step_timeout, f"environment {name}"):
            _, info = first.reset(seed=0, options=rules.reset_options(new_task=True))
        if "episode_end" in info:
            _check_own_trials(name, episode_length, rules)
        observed = getattr(first.observation_space, "spaces", {})
        masked = mask_actions and (ACTION_MASK in info or ACTION_MASK in observed)
        action = Action(first.action_space, masked)
        plan = Plan(name, made, keys, action, rules, "episode_end" in info, tuple(measures))
        self.interface = Interface(without_keys(first.observation_space, ignore), keys, action)

        super().__init__(device=device, batch_size=torch.Size([n_envs]))
        self.action_names = action_names_of(first)
        self._set_specs(plan)
        self._runners: Runners | WorkerRunners
        self._arrays: dict[ArrayKey, NDArray]
        if workers:
            first.close()
            self._runners = WorkerRunners(plan, n_envs, workers, step_timeout)
            self._arrays = self._runners.arrays
        else:
            layout = plan.array_layout().items()
            self._arrays = {name: np.zeros((n_envs, *shape), dtype) for name, (shape, dtype) in layout}
            self._runners = Runners(plan, range(n_envs), self._arrays, first, step_timeout)
        self.set_seed(seed)

    def image(self, index: int = 0) -> NDArray[np.uint8]:
        """Return an image of an environment, uint8 ``[H, W, 3]``."""
        return self._runners.image(index)

    def watch(self) -> None:
        """Keep an image of the end of every episode from now on."""
        self._runners.watch()

    def last_image(self, index: int = 0) -> NDArray[np.uint8] | None:
        """Return an image of the end of an environment's latest episode; None if there is none."""
        return self._runners.last_image(index)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environments and stop the workers."""
        self._runners.close()
        super().close(raise_if_closed=raise_if_closed)

    def _set_specs(self, plan: Plan) -> None:
        n, device = self.batch_size[0], self.device
        flag = Binary(n=1, shape=(n, 1), dtype=torch.bool, device=device)
        number = Unbounded((n, 1), device=device)
        observation = Composite({key.name: key.spec((n,), device) for key in plan.keys}, shape=(n,))
        specs = {
            OBSERVATION: observation,
            "episode_end": flag.clone(),
            "episode_return": number.clone(),
            "episode_length": Unbounded((n, 1), dtype=torch.int64, device=device),
            SUCCESS: flag.clone(),
        }
        if not plan.decides_success:
            specs[SUCCESS_REPORTED] = flag.clone()
        if plan.action.masked:
            specs[ACTION_MASK] = Binary(shape=(n, sum(plan.action.n_values)), dtype=torch.bool, device=device)
        if plan.truncates:
            specs[TRUNCATED] = flag.clone()
        if plan.truncates_within_trials:
            specs[FINAL_OBSERVATION] = observation.clone()
        if plan.measures:
            specs[MEASURES] = Composite({name: number.clone() for name in plan.measures}, shape=(n,))
        self.observation_spec = Composite(specs, shape=(n,))
        self.action_spec = plan.action.spec((n,), device)
        self.reward_spec = number.clone()
        ends = ["done", "terminated", *(["truncated"] if plan.truncates else [])]
        self.full_done_spec = Composite({name: flag.clone() for name in ends}, shape=(n,))
        self._per_environment = {
            *REPORTS,
            SUCCESS,
            SUCCESS_REPORTED,
            TRUNCATED,
            "reward",
            *ends,
        }  # numbers, which TorchRL stores as [N, 1]

    def _set_seed(self, seed: int | None) -> None:
        self._runners.seed(seed or 0)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        flags = None if tensordict is None else tensordict.get("_reset", None)
        self._arrays["reset"][:] = True if flags is None else flags.view(self.batch_size).cpu().numpy()
        self._runners.reset()
        return self._results("action", "reset", "reward")

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self._arrays["action"][:] = tensordict.get("action").cpu().numpy()
        self._runners.step()
        return self._results("action", "reset")

    def _results(self, *without: str) -> TensorDict:
        """Return copies of all arrays but ``without``; those with one number per environment as ``[N, 1]``."""
        results = TensorDict({}, self.batch_size, device=self.device)
        for name, array in self._arrays.items():
            if name not in without:
                value = torch.from_numpy(array.copy()).to(self.device)
                is_number = name in self._per_environment or (isinstance(name, tuple) and name[0] == MEASURES)
                results.set(name, value.unsqueeze(-1) if is_number else value)
        return results
