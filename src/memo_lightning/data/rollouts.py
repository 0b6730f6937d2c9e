"""The data module between a TorchRL collector and the Trainer: a batch is a rollout, or one chunk of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar, Protocol

import lightning
import numpy as np
from tensordict import TensorDictBase
from torchrl.collectors import BaseCollector
from torchrl.envs import EnvBase

from memo_lightning.data.collector import TrialCollector
from memo_lightning.errors import require
from memo_lightning.policies import MemoryPolicy


class Learner(Protocol):
    """What the data module needs from the LightningModule: the policy, and the progress of the run."""

    policy: MemoryPolicy
    frames: int
    rollouts_done: int


class Rollouts:
    """Iterable over the chunks of rollouts, of known length.

    It must have a ``__len__``: without one, Lightning fetches one batch ahead, and the policy would be trained on
    rollouts of its previous weights.

    Every rollout begins with new seeds for the environments and for everything that is drawn until the next rollout.
    They are derived from the run's seed, the rank and the rollout's number. So a run that is resumed from a checkpoint
    has the random streams of a run that never stopped, whatever the collector and the environment.

    Args:
        collector: yields chunks of rollouts; all environments are reset at the start of each rollout.
        collect: returns the next chunk that ``collector`` yields, made with the current weights.
        n_chunks: chunks per rollout.
        n_rollouts: number of rollouts to come.
        first: number of the first of them; not 0 if a run is resumed.
        seed: seed of the run.
        rank: rank of this process.
        seeds_each_rollout: whether the collector can be seeded between rollouts; otherwise it resets by itself.
    """

    def __init__(
        self,
        collector: BaseCollector,
        collect: Callable[[Iterator[TensorDictBase]], TensorDictBase],
        n_chunks: int,
        n_rollouts: int,
        *,
        first: int,
        seed: int,
        rank: int,
        seeds_each_rollout: bool,
    ) -> None:
        self._collector, self._collect = collector, collect
        self._n_chunks, self._n_rollouts = n_chunks, n_rollouts
        self._first, self._seed, self._rank, self._seeds_each_rollout = first, seed, rank, seeds_each_rollout

    def __len__(self) -> int:
        return self._n_rollouts * self._n_chunks

    def __iter__(self) -> Iterator[TensorDictBase]:
        chunks = iter(self._collector)
        for number in range(self._first, self._first + self._n_rollouts):
            env_seed, own_seed = np.random.SeedSequence((self._seed, self._rank, number)).generate_state(2).tolist()
            lightning.seed_everything(own_seed, verbose=False)
            if self._seeds_each_rollout:
                self._collector.set_seed(env_seed)
                self._collector.reset()
            for _ in range(self._n_chunks):
                yield self._collect(chunks)


class RolloutDataModule(lightning.LightningDataModule):
    """Data module that collects rollouts ``[n_envs, rollout_length]`` with the policy that is being trained.

    Every rollout begins with a reset of all environments. So its sequences begin at the start of a trial and hold
    everything that the memory has seen, and the memory can be recomputed from them.

    A rollout may come in chunks of ``rollout_length / n_chunks`` steps, so that the learner can learn from one chunk
    before the next is collected. A batch is a chunk, as described by
    :class:`~memo_lightning.data.collector.TrialCollector`.

    Args:
        make_env: builds the batched environment, given the number of environments and a seed.
        n_envs: number of environments, the batch size B of a rollout.
        rollout_length: steps T of a rollout.
        n_chunks: number of batches per rollout; a divisor of ``rollout_length``.
        total_frames: environment steps to collect in total; rounded up to whole rollouts of all ranks.
        seed: seed of the run.

    Attributes:
        n_actors: number of policy copies that act, each in an equal share of the environments, in order.

    Raises:
        UserError: if a count is not positive, or a rollout cannot be cut into the chunks.
    """

    seeds_each_rollout: ClassVar[bool] = True
    n_actors: int = 1

    def __init__(
        self,
        make_env: Callable[[int, int], EnvBase],
        *,
        n_envs: int,
        rollout_length: int,
        n_chunks: int,
        total_frames: int,
        seed: int,
    ) -> None:
        super().__init__()
        require(total_frames >= 1, "total_frames", total_frames, "at least 1")
        require(n_envs >= 1, "collector.n_envs", n_envs, "at least 1")
        require(rollout_length >= 1, "collector.rollout_length", rollout_length, "at least 1")
        divides = n_chunks >= 1 and rollout_length % n_chunks == 0
        require(divides, "collector.n_chunks", n_chunks, f"a divisor of collector.rollout_length={rollout_length}")
        self.n_envs, self.rollout_length, self.n_chunks = n_envs, rollout_length, n_chunks
        self.total_frames, self.seed = total_frames, seed
        self._make_env = make_env
        self.env = self._describing_env()
        self._collector: BaseCollector | None = None

    @property
    def frames_per_rollout(self) -> int:
        """Environment steps in one rollout of one process."""
        return self.n_envs * self.rollout_length

    def n_rollouts_after(self, frames: int) -> int:
        """Return how many rollouts each process must still collect after ``frames`` frames of all processes."""
        world_size = self.trainer.world_size if self.trainer else 1
        return max(0, -(-(self.total_frames - frames) // (self.frames_per_rollout * world_size)))

    def train_dataloader(self) -> Rollouts:
        """Return the rollouts to come; the collector is built once, after callbacks have changed the policy."""
        assert self.trainer is not None
        learner: Learner = self.trainer.lightning_module  # type: ignore[assignment]
        if self._collector is None:
            self._collector = self._build_collector(learner.policy, learner.rollouts_done)
        return Rollouts(
            self._collector,
            partial(self._collect, learner.policy),
            self.n_chunks,
            self.n_rollouts_after(learner.frames),
            first=learner.rollouts_done,
            seed=self.seed,
            rank=self.trainer.global_rank,
            seeds_each_rollout=self.seeds_each_rollout,
        )

    def _describing_env(self) -> EnvBase:
        """Return an environment whose specs describe the policy's inputs and actions."""
        return self._make_env(self.n_envs, self.seed)

    def _build_collector(self, policy: MemoryPolicy, first_rollout: int) -> BaseCollector:
        """Build the collector, whose first rollout has number ``first_rollout``."""
        return TrialCollector(
            self.env,
            policy,
            policy_device=policy.device,
            storing_device=policy.device,
            env_device=self.env.device,
            frames_per_batch=self.frames_per_rollout // self.n_chunks,
            total_frames=-1,
            track_traj_ids=False,
            use_buffers=False,
            return_same_td=True,  # a new one for every chunk, so no copy is needed
        )

    def _collect(self, policy: MemoryPolicy, chunks: Iterator[TensorDictBase]) -> TensorDictBase:
        """Return the next chunk; the policy that acts is the one being trained, so its weights are current."""
        return next(chunks)

    def _close(self, collector: BaseCollector) -> None:
        collector.shutdown()

    def on_exception(self, exception: BaseException) -> None:
        """Close the collector, as Lightning calls ``teardown`` only after a successful run."""
        self.teardown("fit")

    def teardown(self, stage: str) -> None:
        """Close the collector and its environments."""
        if self._collector is not None:
            self._close(self._collector)
            self._collector = None
