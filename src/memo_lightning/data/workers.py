"""Collecting in worker processes, for environments whose steps cost more than the policy's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.collectors import BaseCollector, MultiCollector
from torchrl.envs import EnvBase
from torchrl.weight_update import WeightSyncScheme

from memo_lightning.data.collector import TrialCollector
from memo_lightning.data.rollouts import RolloutDataModule
from memo_lightning.errors import require
from memo_lightning.policies import MemoryPolicy
from memo_lightning.processes import begin_worker, call_watching, start_watching

SECONDS_TO_CLOSE = 2.0


class MultiSyncDataModule(RolloutDataModule):
    """Data module whose worker processes share the environments of each rollout and wait for the new weights.

    Every worker has a copy of the policy on the CPU, with the memory of its own environments. Rollouts are
    reproducible: a worker's random streams are derived from the run's seed, the rank, the worker and the rollout's
    number.

    Args:
        make_env: builds the batched environment, given the number of environments and a seed.
        n_workers: worker processes per rank; a divisor of ``n_envs``.
        settings: further arguments of :class:`RolloutDataModule`.

    Raises:
        UserError: if the environments cannot be divided equally among the workers, or another setting is out of range.
    """

    def __init__(
        self, make_env: Callable[[int, int], EnvBase], *, n_workers: int, n_envs: int, **settings: Any
    ) -> None:
        divides = n_workers >= 1 and n_envs % n_workers == 0
        require(divides, "collector.n_workers", n_workers, f"a divisor of collector.n_envs={n_envs}")
        super().__init__(make_env, n_envs=n_envs, **settings)
        self.n_workers = self.n_actors = n_workers

    def _describing_env(self) -> EnvBase:
        return self._make_env(1, self.seed)  # the workers have the environments

    def _build_collector(self, policy: MemoryPolicy, first_rollout: int) -> BaseCollector:
        return self._start_workers(
            policy,
            self._env_makers(self.n_envs // self.n_workers, first_rollout),
            sync=True,
            frames_per_batch=self.frames_per_rollout // self.n_chunks,
            cat_results=0,
        )

    def _env_makers(self, n_envs: int, first_rollout: int) -> list[Callable[[], EnvBase]]:
        """Return, for each worker, a function that makes its ``n_envs`` environments."""
        rank = self.trainer.global_rank if self.trainer else 0
        seeds = np.random.SeedSequence((self.seed, rank, first_rollout)).generate_state(self.n_workers).tolist()
        return [partial(self._make_env, n_envs, seed) for seed in seeds]

    def _start_workers(
        self, policy: MemoryPolicy, env_makers: list[Callable[[], EnvBase]], **settings: Any
    ) -> MultiCollector:
        cpu = torch.device("cpu")
        start = partial(
            MultiCollector,
            env_makers,
            copy.deepcopy(policy).to(cpu),  # in memory shared with the workers, which get the weights of each update
            policy_device=cpu,
            env_device=cpu,
            storing_device=cpu,
            collector_class=TrialCollector,
            total_frames=-1,
            num_threads=torch.get_num_threads(),  # of this process; TorchRL would set it to the number of workers
            use_buffers=True,
            init_fn=begin_worker,
            **settings,
        )
        try:
            # TorchRL may wait forever for a worker that ends while it starts.
            return start_watching(start)
        except BaseException:
            # The unfinished collector is garbage collected when the interpreter exits; it would then start a thread
            # that never ends.
            if hasattr(WeightSyncScheme, "__del__"):
                del WeightSyncScheme.__del__
            raise

    def _collect(self, policy: MemoryPolicy, chunks: Iterator[TensorDictBase]) -> TensorDictBase:
        """Send the weights to the workers, and return the next chunk."""
        collector = self._collector
        assert collector is not None
        workers = getattr(collector, "procs", [])  # Ray watches its own
        weights = TensorDict.from_module(policy).data.to("cpu")
        # TorchRL waits until every worker has the weights, and forever if one has ended.
        call_watching(workers, partial(collector.update_policy_weights_, weights))
        try:
            return next(chunks)
        except ValueError as error:  # TorchRL ends the other workers, and fails on those that are slow to end
            if "Cannot close a process" not in str(error):
                raise
            raise RuntimeError("a worker exited unexpectedly") from None

    def _close(self, collector: BaseCollector) -> None:
        # TorchRL gives this process more threads when workers end. The last update is still to come then, and would
        # round differently from the same update in a longer run.
        n_threads = torch.get_num_threads()
        collector.shutdown(timeout=SECONDS_TO_CLOSE)
        torch.set_num_threads(n_threads)


class MultiAsyncDataModule(MultiSyncDataModule):
    """Data module whose worker processes each collect whole rollouts while the learner learns from those of others.

    No process waits, so rollouts are collected with older weights than those that learn from them: with W workers,
    older by up to about W updates. Weights that arrive in the middle of a rollout are used at once.
    ``train/staleness`` is the age in updates. The order in which rollouts arrive depends on the machine, so runs are
    not reproducible.

    Args:
        make_env: builds the batched environment, given the number of environments and a seed.
        n_workers: worker processes per rank, each with ``n_envs`` environments.
        settings: further arguments of :class:`RolloutDataModule`.

    Raises:
        UserError: if ``n_chunks`` is not 1, or another setting is out of range.
    """

    seeds_each_rollout = False

    def __init__(self, make_env: Callable[[int, int], EnvBase], *, n_workers: int, **settings: Any) -> None:
        require(settings["n_chunks"] == 1, "collector.n_chunks", settings["n_chunks"], "1 with collector=multi_async")
        super().__init__(make_env, n_workers=1, **settings)
        require(n_workers >= 1, "collector.n_workers", n_workers, "at least 1")
        self.n_workers = n_workers

    def _build_collector(self, policy: MemoryPolicy, first_rollout: int) -> BaseCollector:
        return self._start_workers(
            policy,
            self._env_makers(self.n_envs, first_rollout),
            sync=False,
            frames_per_batch=self.frames_per_rollout,
            reset_at_each_iter=True,
            track_policy_version=True,
        )
