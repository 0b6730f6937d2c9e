"""Any Gymnasium environment, N of them side by side, with the trials that memory is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Composite, Unbounded
from torchrl.envs import EnvBase

from memo_lightning.envs.failures import named
from memo_lightning.envs.gymnasium.make import Wrapper, make_from_id
from memo_lightning.envs.gymnasium.rows import Plan, Rows
from memo_lightning.envs.gymnasium.spaces import Action, observation_entries
from memo_lightning.envs.gymnasium.trial_row import SameTask, TrialRules
from memo_lightning.envs.gymnasium.workers import WorkerRows
from memo_lightning.envs.reports import REPORTS
from memo_lightning.errors import require


class GymnasiumEnv(EnvBase):
    """Gymnasium environments as rows of a TorchRL environment that keeps the contract of trials.

    What the observation holds become entries of their own: ``observation``, or one for each part of a Dict or
    Tuple. See :class:`~memo_lightning.envs.gymnasium.trial_row.TrialRow` for what a trial is and how
    rows are seeded; results depend neither on the number of rows nor on that of workers.

    Args:
        n_envs: number of rows N.
        id: a registered environment, e.g. ``CartPole-v1``, or ``my.module:MyEnv-v0``.
        make: makes the environment of one row, instead of ``id``.
        settings: arguments of the registered environment.
        wrappers: dotted paths of Gymnasium wrappers, or callables, applied in this order.
        ignore: entries of the observation to leave out.
        measures: numbers in the ``info`` of every step to report beside the success, such as ``spl``.
        episode_length: steps after which an episode is truncated; None for what is registered.
        trial_length, episodes_per_trial, same_task, success_return, split: see
            :class:`~memo_lightning.envs.gymnasium.trial_row.TrialRules`.
        workers: processes to spread the rows over; 0 for none beside this one.
        step_timeout: seconds that a step or reset of all rows, or of those of a worker, may take.
        seed: seed of all random streams.
        device: where tensors go.

    Attributes:
        reports: entries that tell how the trial goes and are not to be observed.

    Raises:
        UserError: if a setting is wrong, or the environment has observations or actions that are not supported.
        EnvironmentFailure: if an environment raises, dies or hangs; then or later.
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
        measures: Sequence[str] = (),
        episode_length: int | None = None,
        trial_length: int,
        episodes_per_trial: int | None = None,
        same_task: SameTask = "none",
        success_return: float | None = None,
        split: str = "train",
        workers: int = 0,
        step_timeout: float = 20.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        require(n_envs >= 1, "n_envs", n_envs, "at least 1")
        require(0 <= workers <= n_envs, "env.workers", workers, f"at least 0 and at most the {n_envs} environments")
        require(step_timeout > 0, "env.step_timeout", step_timeout, "greater than 0")
        require(episode_length is None or episode_length >= 1, "env.episode_length", episode_length, "at least 1")
        make = make or partial(make_from_id, id, settings or {}, list(wrappers), episode_length)
        with named(f"environment {id or getattr(make, 'func', make)}", also_mistakes=False):
            first = make()
        if success_return is None and first.spec:
            success_return = first.spec.reward_threshold
        rules = TrialRules(trial_length, episodes_per_trial, same_task, success_return, split)
        entries, action = observation_entries(first.observation_space, ignore), Action(first.action_space)
        plan = Plan(first.spec.id if first.spec else str(first), make, entries, action, rules, tuple(measures))

        super().__init__(device=device, batch_size=torch.Size([n_envs]))
        flag = Binary(n=1, shape=(n_envs, 1), dtype=torch.bool, device=self.device)
        self._entries = [entry.name for entry in entries]
        self.reports = (*REPORTS, *measures)
        self.observation_spec = Composite(
            {entry.name: entry.spec(n_envs, self.device) for entry in entries},
            episode_end=flag.clone(),
            episode_return=Unbounded((n_envs, 1), device=self.device),
            episode_length=Unbounded((n_envs, 1), dtype=torch.int64, device=self.device),
            success=flag.clone(),
            **{name: Unbounded((n_envs, 1), device=self.device) for name in measures},
            shape=(n_envs,),
        )
        self.action_spec = action.spec(n_envs, self.device)
        self.reward_spec = Unbounded((n_envs, 1), device=self.device)
        self.full_done_spec = Composite(done=flag.clone(), terminated=flag.clone(), shape=(n_envs,))

        self._rows: Rows | WorkerRows
        self._arrays: dict[str, NDArray]
        if workers:
            first.close()
            self._rows = WorkerRows(plan, n_envs, workers, step_timeout)
            self._arrays = self._rows.arrays
        else:
            self._arrays = {
                name: np.zeros((n_envs, *shape), dtype) for name, (shape, dtype) in plan.array_layout().items()
            }
            self._rows = Rows(plan, range(n_envs), self._arrays, first, step_timeout)
        self.set_seed(seed)

    def picture(self, row: int = 0) -> NDArray[np.uint8]:
        """Return what a row looks like, uint8 ``[H, W, 3]``."""
        return self._rows.picture(row)

    def watch(self) -> None:
        """Keep a picture of how every episode ends from now on."""
        self._rows.watch()

    def last_picture(self, row: int = 0) -> NDArray[np.uint8] | None:
        """Return what a row looked like when its latest episode had ended; None where that cannot be told."""
        return self._rows.last_picture(row)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environments and end the workers."""
        self._rows.close()
        super().close(raise_if_closed=raise_if_closed)

    def _set_seed(self, seed: int | None) -> None:
        self._rows.seed(seed or 0)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        flags = None if tensordict is None else tensordict.get("_reset", None)
        self._arrays["reset"][:] = True if flags is None else flags.view(self.batch_size).cpu().numpy()
        self._rows.reset()
        return self._results(*self._entries, *self.reports, "done")

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self._arrays["action"][:] = tensordict.get("action").cpu().numpy()
        self._rows.step()
        return self._results(*self._entries, *self.reports, "reward", "done")

    def _results(self, *names: str) -> TensorDict:
        """Return copies of arrays; what is one number per row as ``[N, 1]``."""
        results = {}
        for name in names:
            value = torch.from_numpy(self._arrays[name].copy()).to(self.device)
            results[name] = value if name in self._entries else value.unsqueeze(-1)
        return TensorDict({**results, "terminated": results["done"].clone()}, self.batch_size, device=self.device)
