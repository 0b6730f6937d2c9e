"""From a TorchRL collector to the Trainer: one rollout is one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lightning
from tensordict import TensorDictBase
from torchrl.collectors import Collector
from torchrl.envs import EnvBase

from memo_lightning.errors import require


class Rollouts:
    """An iterable over a collector that says how many rollouts will come.

    It must have a ``__len__``: Lightning fetches one batch ahead from an iterable without, and the policy would
    be trained on rollouts of its previous weights.
    """

    def __init__(self, collector: Collector, n_rollouts: int) -> None:
        self._collector, self._n_rollouts = collector, n_rollouts

    def __len__(self) -> int:
        return self._n_rollouts

    def __iter__(self) -> Iterator[TensorDictBase]:
        rollouts = iter(self._collector)
        for _ in range(self._n_rollouts):
            yield next(rollouts)


class RolloutDataModule(lightning.LightningDataModule):
    """Collects rollouts ``[n_envs, rollout_length]`` with the policy that is being trained.

    Every rollout begins with a reset of all environments, so its rows begin at the start of a trial and hold
    all that the memory has seen: what acting remembered can be recomputed from the row.

    Args:
        make_env: builds the batched environment for ``n_envs`` environments and a seed.
        n_envs: environments, the rows B of a rollout.
        rollout_length: steps T of a rollout.
        total_frames: environment steps to collect in all; rounded up to whole rollouts.
        seed: seed of the environments' random streams.

    Raises:
        UserError: if a count is not positive.
    """

    def __init__(
        self,
        make_env: Callable[[int, int], EnvBase],
        *,
        n_envs: int,
        rollout_length: int,
        total_frames: int,
        seed: int,
    ) -> None:
        super().__init__()
        require(total_frames >= 1, "total_frames", total_frames, "at least 1")
        require(n_envs >= 1, "collector.n_envs", n_envs, "at least 1")
        require(rollout_length >= 1, "collector.rollout_length", rollout_length, "at least 1")
        self.n_envs, self.rollout_length = n_envs, rollout_length
        self.n_rollouts = -(-total_frames // self.frames_per_rollout)
        self.env = make_env(n_envs, seed)
        self._collector: Collector | None = None

    @property
    def frames_per_rollout(self) -> int:
        """Environment steps in one rollout."""
        return self.n_envs * self.rollout_length

    def train_dataloader(self) -> Rollouts:
        """Build the collector, once, around the policy as the callbacks have left it."""
        assert self.trainer is not None
        if self._collector is None:
            self._collector = Collector(
                self.env,
                self.trainer.lightning_module.policy,
                frames_per_batch=self.frames_per_rollout,
                total_frames=-1,
                reset_at_each_iter=True,
                track_traj_ids=False,
            )
        return Rollouts(self._collector, self.n_rollouts)

    def teardown(self, stage: str) -> None:
        """Close the collector and its environments."""
        if self._collector is not None:
            self._collector.shutdown()
            self._collector = None
