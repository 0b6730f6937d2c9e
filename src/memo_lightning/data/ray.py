"""Collecting in worker processes on many machines, with Ray."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any
from unittest import mock

import lightning
import torch
from tensordict import TensorDictBase
from torchrl.collectors import BaseCollector
from torchrl.collectors.distributed import RayCollector
from torchrl.envs import EnvBase

from memo_lightning.data.collector import TrialCollector
from memo_lightning.data.workers import MultiSyncDataModule
from memo_lightning.errors import UserError, require
from memo_lightning.policies import MemoryPolicy

with contextlib.suppress(ImportError):  # an extra
    import ray

SECONDS_TO_ANSWER = 5.0


class RayDataModule(MultiSyncDataModule):
    """Data module whose workers in a Ray cluster share the environments of each rollout and wait for new weights.

    The workers act on the CPU. Everything else, including the random streams, is as in :class:`MultiSyncDataModule`.

    Args:
        make_env: builds the batched environment, given the number of environments and a seed.
        n_workers: workers per rank; a divisor of ``n_envs``.
        cpus_per_worker: cores that Ray reserves for each worker, and threads that the worker computes with.
        address: address of the cluster, as for ``ray.init``: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``. None
            starts Ray on this machine for this process only, closed to other machines.
        settings: further arguments of :class:`RolloutDataModule`.

    Raises:
        UserError: if Ray is not installed, there is no cluster with enough cores at the address, the environments
            cannot be divided equally among the workers, or another setting is out of range.
    """

    def __init__(
        self,
        make_env: Callable[[int, int], EnvBase],
        *,
        n_workers: int,
        cpus_per_worker: int,
        address: str | None,
        **settings: Any,
    ) -> None:
        if find_spec("ray") is None:
            raise UserError("collector=ray: Ray is not installed; pip install 'memo-lightning[ray]'")
        require(cpus_per_worker >= 1, "collector.cpus_per_worker", cpus_per_worker, "at least 1")
        super().__init__(make_env, n_workers=n_workers, **settings)
        self.cpus_per_worker, self.address = cpus_per_worker, address
        if address is not None and not ray.is_initialized():
            self._check_cluster(address)

    def _check_cluster(self, address: str) -> None:
        """Raise :class:`UserError` unless there is a cluster with room for the workers."""
        scheme, _, location = address.rpartition("//")
        host, _, port = location.rpartition(":")
        if host in ("localhost", "127.0.0.1") and not scheme:
            host = ray.util.get_node_ip_address()  # as Ray does
        try:
            if host:  # Ray would try for minutes
                socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
            with _sigterm_kept():
                ray.init(**self._cluster())
            n_cpus = int(ray.cluster_resources().get("CPU", 0))
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
            raise UserError(f"collector.address={address!r}: must be the address of a Ray cluster ({reason})") from None
        finally:
            ray.shutdown()
        allowed = f"at most {n_cpus // self.cpus_per_worker}, as the cluster has {n_cpus} cores"
        require(self.n_workers * self.cpus_per_worker <= n_cpus, "collector.n_workers", self.n_workers, allowed)

    def _cluster(self) -> dict[str, Any]:
        """Return the arguments of ``ray.init``."""
        quietly = {"logging_level": "warning"}
        if self.address is not None:
            return {"address": self.address, **quietly}
        # "local", since without an address Ray would use any cluster that it finds.
        n_cpus = self.n_workers * self.cpus_per_worker
        return {"address": "local", "num_cpus": n_cpus, "include_dashboard": False, **quietly}

    def _build_collector(self, policy: MemoryPolicy, first_rollout: int) -> BaseCollector:
        with _sigterm_kept(), contextlib.nullcontext() if self.address else _on_loopback():
            return _RemoteCollectors(
                self._env_makers(self.n_envs // self.n_workers, first_rollout),
                copy.deepcopy(policy).cpu(),
                sync=True,
                frames_per_batch=self.frames_per_rollout // self.n_chunks,
                total_frames=sys.maxsize,
                policy_device=torch.device("cpu"),
                storing_device=torch.device("cpu"),
                postproc=_join_workers,
                collector_class=_RemoteCollector,
                collector_kwargs={"track_traj_ids": False, "use_buffers": False},
                remote_configs={"num_cpus": self.cpus_per_worker},
                ray_init_config=self._cluster(),
                weight_sync_schemes={},
            )


class _RemoteCollector(TrialCollector):
    """Collector in a worker that seeds its whole process, as TorchRL's worker processes on one machine do."""

    def __repr__(self) -> str:
        return f"worker {getattr(self, 'worker_idx', None)}"  # the prefix of every line that it writes

    def __bool__(self) -> bool:
        return True  # Ray asks when the worker has raised; TorchRL's infinite length would raise another error

    def set_seed(self, seed: int, static_seed: bool = False) -> int:
        last = super().set_seed(seed, static_seed)
        lightning.seed_everything(seed, verbose=False)
        return last


class _RemoteCollectors(RayCollector):
    """TorchRL's Ray collector, with what its collector for processes on one machine has in addition.

    Weights travel through Ray's object store, once to each machine. TorchRL's own scheme opens a port that listens to
    all machines, and sends the weights to every worker.
    """

    def __init__(self, make_envs: list[Callable[[], EnvBase]], policy: MemoryPolicy, **settings: Any) -> None:
        super().__init__(make_envs, policy, **settings)
        self._weight_names = list(policy.state_dict())
        warnings.filterwarnings("ignore", "RayCollector iteration started before weight synchronization", UserWarning)

    def set_seed(self, seed: int, static_seed: bool = False) -> int:
        last = super().set_seed(seed, static_seed)
        self.reset()
        return last

    def reset(self) -> None:
        self.map_fn("reset")

    def update_policy_weights_(self, weights: TensorDictBase) -> None:
        flat = weights.flatten_keys(".")
        stored = ray.put({name: flat.get(name).clone() for name in self._weight_names})
        self.map_fn("policy.load_state_dict", [(stored,)] * self.num_collectors)


def _join_workers(chunks: TensorDictBase) -> TensorDictBase:
    """Join the chunks of all workers, ``[n_workers, B / n_workers]``, into one chunk ``[B]``."""
    return chunks.flatten(0, 1)


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Restore the SIGTERM handler, which ``ray.init`` replaces with one that exits."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Make Ray, if started within the block, listen on 127.0.0.1 only and send no usage statistics.

    Ray accepts no loopback address for a node, but it has a switch, read on import, that makes it choose 127.0.0.1.
    """
    switch = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    variables = {switch: "0", "RAY_USAGE_STATS_ENABLED": "0"}
    constants = ray._private.ray_constants
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # says how to do without its token
    with mock.patch.dict(os.environ, variables), mock.patch.object(constants, "ENABLE_RAY_CLUSTER", False):
        yield
