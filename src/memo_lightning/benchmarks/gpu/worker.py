"""A process that takes measurements, and is replaced after a failure."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

import torch

from memo_lightning.benchmarks.gpu.measure import Measure, Settings, SkippedError
from memo_lightning.models.device import prepare_device
from memo_lightning.processes import end_with_parent

_START_SECONDS = 30.0  # on top of a measurement's limit, for importing torch and creating a CUDA context


class Worker:
    """A separate process that takes measurements one after the other.

    After a failure, the next measurement gets a new process: a CUDA error persists in the process it occurred in.

    Args:
        settings: settings of all measurements.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def take(self, measure: Measure, seconds: float) -> dict[str, Any]:
        """Return a measurement's results and seconds, or why there are none, as ``failed`` or ``skipped``."""
        if missing := measure.missing():
            return {"skipped": f"not installed: {', '.join(missing)}"}
        start, is_new = time.perf_counter(), self._process is None
        result = self._ask(measure, seconds, seconds + _START_SECONDS * is_new)
        if "failed" in result:
            self.stop()
        return {**result, "seconds": round(time.perf_counter() - start, 2)}

    def _ask(self, measure: Measure, seconds: float, patience: float) -> dict[str, Any]:
        connection = self._connection or self._start()
        try:
            connection.send((measure, dataclasses.replace(self._settings, seconds=seconds)))
            if not connection.poll(patience):
                return {"failed": f"took longer than {seconds:.0f} s"}
            return connection.recv()
        except (EOFError, OSError):
            return {"failed": "its process died, e.g. because memory ran out or a kernel is faulty"}

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,))
        self._process.start()
        theirs.close()  # so that the end of the worker is noticed here
        return self._connection

    def stop(self) -> None:
        """End the process."""
        if self._process is not None and self._connection is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process = self._connection = None


def _serve(connection: Connection) -> None:
    """Take the measurements that are requested, until the requesting process is gone."""
    end_with_parent()
    while True:
        try:
            measure, settings = connection.recv()
        except EOFError:
            return
        connection.send(take_here(measure, settings))


def take_here(measure: Measure, settings: Settings) -> dict[str, Any]:
    """Take a measurement in this process and return its results, or why there are none."""
    try:
        prepare_device(settings.torch_device)
        torch.manual_seed(0)
        result = measure.function(settings, *measure.arguments)
        if settings.device == "cuda":
            torch.cuda.synchronize()  # errors of kernels surface only here
            torch.cuda.empty_cache()
        return result
    except SkippedError as reason:
        return {"skipped": str(reason)}
    except Exception as error:  # whatever it is, the other measurements continue
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000]}
