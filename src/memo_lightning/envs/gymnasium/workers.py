"""Environments in worker processes that write to shared memory.

Unlike in TorchRL's and Gymnasium's process-based environments, one worker holds several environments. A worker never
outlives the run: it ends with its parent, and ends the run when it raises, dies or hangs.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import random
import signal
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
from numpy.typing import NDArray

from memo_lightning.envs.gymnasium.runners import Plan, Runners
from memo_lightning.envs.gymnasium.trial_runner import ArrayKey
from memo_lightning.envs.trial_env import seed_of_split
from memo_lightning.errors import EnvironmentFailure, UserError
from memo_lightning.processes import GUARD, UNGUARDED, end_with_parent, refuse_to_start_in_worker

START_TIMEOUT = 300.0  # seconds to import and build environments
_GRACE = 2.0  # seconds to exit by itself


class WorkerRunners:
    """The same as :class:`~memo_lightning.envs.gymnasium.runners.Runners` for all environments, in worker processes.

    Args:
        plan: how to make the environments; pickled with cloudpickle, so closures are fine.
        n_envs: number of environments N, spread over the workers.
        n_workers: number of processes.
        step_timeout: seconds that a step or reset of one worker's environments may take.

    Attributes:
        arrays: as in :class:`Runners`, in shared memory.

    Raises:
        EnvironmentFailure: if a worker raises, dies or hangs, here or in any method; with the worker's stack trace.
        UserError: if an environment returns something that does not match its spaces, here or in any method.
    """

    def __init__(self, plan: Plan, n_envs: int, n_workers: int, step_timeout: float) -> None:
        refuse_to_start_in_worker()
        # Not fork: this process has threads (torch, MLflow) whose locks a copy would inherit.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._timeout = step_timeout
        shared = {
            name: (
                context.RawArray("b", max(1, n_envs * prod(shape) * np.dtype(dtype).itemsize)),
                (n_envs, *shape),
                dtype,
            )
            for name, (shape, dtype) in plan.array_layout().items()
        }
        self.arrays = _views(shared)
        pickled = cloudpickle.dumps(plan)
        self._workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _kill, self._workers)
        for number, indices in enumerate(np.array_split(np.arange(n_envs), n_workers)):
            here, there = context.Pipe()
            with tempfile.NamedTemporaryFile(prefix="memo-worker-", delete=False) as file:
                trace = Path(file.name)
            process = context.Process(
                target=_work,
                args=(there, pickled, indices.tolist(), shared, str(trace)),
                daemon=True,
                name=f"env-{number}",
            )
            process.start()
            there.close()
            self._workers.append(_Worker(number, indices.tolist(), process, here, trace))
        self._collect(START_TIMEOUT)

    def seed(self, seed: int) -> None:
        """Restart all random streams."""
        self._ask("seed", seed)

    def reset(self) -> None:
        """Begin a new trial where ``arrays["reset"]`` is true."""
        self._ask("reset")

    def step(self) -> None:
        """Apply ``arrays["action"]``."""
        self._ask("step")

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return an image of an environment, uint8 ``[H, W, 3]``."""
        return self._ask("image", index, workers=[self._worker_of(index)])[0]

    def watch(self) -> None:
        """Keep an image of the end of every episode from now on."""
        self._ask("watch")

    def last_image(self, index: int) -> NDArray[np.uint8] | None:
        """Return an image of the end of an environment's latest episode; None if there is none."""
        return self._ask("last_image", index, workers=[self._worker_of(index)])[0]

    def close(self) -> None:
        """Ask the workers to close their environments; kill those that do not."""
        for worker in self._workers:
            try:
                worker.connection.send(("close", ()))
            except OSError:
                continue  # already gone
        deadline = time.monotonic() + _GRACE
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
        self._finalizer()

    def _worker_of(self, index: int) -> _Worker:
        return next(worker for worker in self._workers if index in worker.indices)

    def _ask(self, method: str, *args: Any, workers: Sequence[_Worker] | None = None) -> list[Any]:
        workers = self._workers if workers is None else workers
        for worker in workers:
            try:
                worker.connection.send((method, args))
            except OSError:
                continue  # it has died, which is noticed below
        return self._collect(self._timeout, workers)

    def _collect(self, timeout: float, workers: Sequence[_Worker] | None = None) -> list[Any]:
        """Return the answers of ``workers`` in order; any error kills all workers."""
        try:
            patience = _Patience(timeout)
            return [worker.answer(patience) for worker in workers or self._workers]
        except BaseException:
            self._finalizer()
            raise


class _Patience:
    """Time limit that all workers share for their answers; it does not run while this process is suspended.

    Args:
        seconds: the time limit.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = self._left = seconds

    def wait(self, *objects: Any) -> None:
        """Return when one of the objects is ready or the time is up."""
        while True:
            longest, began = min(self._left, 1.0), time.monotonic()
            ready = wait(objects, longest)
            self._left -= min(time.monotonic() - began, longest)  # more can pass only while suspended
            if ready or self._left <= 0:
                return


@dataclass
class _Worker:
    """The parent's side of a worker."""

    number: int
    indices: list[int]
    process: ForkServerProcess
    connection: Connection
    trace: Path

    def answer(self, patience: _Patience) -> Any:
        """Wait for the worker's answer and return it."""
        patience.wait(self.connection, self.process.sentinel)
        try:
            kind, value = self.connection.recv() if self.connection.poll() else ("silence", None)
        except (EOFError, OSError):
            kind, value = "silence", None
        if kind == "answer":
            return value
        if kind == "mistake":
            raise UserError(str(value))
        if kind == "failure":
            raise EnvironmentFailure(f"env worker {self.number}: {value}")
        reason = self._why_silent(patience.seconds)
        raise UserError(GUARD) if self.process.exitcode == UNGUARDED else EnvironmentFailure(reason)

    def _why_silent(self, seconds: float) -> str:
        who = f"env worker {self.number} (environments {self.indices[0]} to {self.indices[-1]})"
        self.process.join(0.5)  # a process that has closed its pipe is about to end
        if self.process.exitcode is None:
            assert self.process.pid is not None
            os.kill(self.process.pid, signal.SIGUSR1)  # faulthandler writes its stack trace
            time.sleep(0.5)
            return f"{who} hangs: no answer within {seconds:g} s (env.step_timeout)\n{self.trace.read_text()}"
        code = self.process.exitcode
        reason = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"{who} died: {reason}\n{self.trace.read_text()}"


def _kill(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join()
        worker.connection.close()
        worker.trace.unlink(missing_ok=True)
    workers.clear()


def _views(shared: dict[ArrayKey, tuple[Any, tuple[int, ...], type[np.generic]]]) -> dict[ArrayKey, NDArray]:
    return {
        name: np.frombuffer(buffer, dtype, prod(shape)).reshape(shape)
        for name, (buffer, shape, dtype) in shared.items()
    }


def _work(connection: Connection, pickled: bytes, indices: list[int], shared: dict[ArrayKey, Any], trace: str) -> None:
    """Run a worker: answer requests until told to close."""
    # Both reach the whole process group; the parent ends the run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    with open(trace, "w") as file:
        faulthandler.enable(file)
        faulthandler.register(signal.SIGUSR1, file)
        try:
            runners = Runners(cloudpickle.loads(pickled), indices, _views(shared))
            connection.send(("answer", None))
            while True:
                method, args = connection.recv()
                if method == "seed":
                    _seed_numpy_and_python(seed_of_split((*args, indices[0]), "all"))
                connection.send(("answer", getattr(runners, method)(*args)))
                if method == "close":
                    return
        except EOFError:
            return
        except UserError as error:
            connection.send(("mistake", str(error)))
        except Exception as error:  # the parent must learn of any error
            connection.send(("failure", str(error)))


def _seed_numpy_and_python(seed: int) -> None:
    """Seed the global random numbers of this process, which all workers inherit alike from their common parent."""
    np.random.seed(seed)  # noqa: NPY002 - for environments that draw from it
    random.seed(seed)
