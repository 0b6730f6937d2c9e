"""Logging a run to MLflow."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from mlflow import MlflowClient
from mlflow.entities import Metric

from memo_lightning.errors import UserError
from memo_lightning.files import write_atomically
from memo_lightning.tracking.store import (
    TRACKING_URI,
    check_run_not_deleted,
    experiment_id_of,
    is_permanent,
    open_client,
    open_store,
    resolve_store,
    unusable_store,
)
from memo_lightning.wording import one_line

logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)  # it reports every new experiment

MAX_METRICS_PER_CALL = 1000  # MLflow's own limit

# One value of a metric as it is stored: name, value, milliseconds since 1970, step.
Point = tuple[str, float, int, int]


class RunLogger(MLFlowLogger):
    """Lightning's MLflow logger, for runs that must neither end nor wait when their store does not answer.

    A separate thread talks to the store. While the store cannot be written, everything is kept and sent when it is
    back, at the latest when the run is resumed; metrics are also kept in ``<run_dir>/unsent_metrics.json``. The logger
    also stores files, and distinguishes a run that was interrupted from a failed one.

    Args:
        tracking_uri: the store, e.g. ``sqlite:///mlflow.db`` or ``http://...``.
        experiment_name: the MLflow experiment that holds the run.
        run_dir: folder of the run.
        run_id: id of the MLflow run to resume; None creates a new one.
        unsent: what :meth:`unsent` returned when the run to resume was saved.
        retry_seconds: seconds between attempts while the store cannot be written.
        kwargs: further arguments of Lightning's ``MLFlowLogger``.

    Raises:
        UserError: if the store cannot be used when a new run begins, or does not hold the run to resume.
    """

    def __init__(
        self,
        *,
        tracking_uri: str,
        experiment_name: str,
        run_dir: str | Path,
        run_id: str | None = None,
        unsent: Iterable[Point] = (),
        retry_seconds: float = 30.0,
        **kwargs: Any,
    ) -> None:
        self.retry_seconds = retry_seconds
        self._unsent_path = Path(run_dir) / "unsent_metrics.json"
        self._points: list[Point] = [*dict.fromkeys([*self._read_unsent(), *unsent])]
        self._actions: deque[Callable[[], object]] = deque()  # everything else that is to be done
        self._stamp = (0, 0)
        self._failing, self._next_attempt = False, 0.0
        self._sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._run_id, self._tracking_uri, self._begun = run_id, tracking_uri, False
        self._settings = {
            "experiment_name": experiment_name,
            "tracking_uri": resolve_store(tracking_uri),
            "run_id": run_id,
            **kwargs,
        }
        try:
            self._begin()
        except UserError:
            raise
        except Exception as error:  # whatever the store's own library raises
            if run_id is None or is_permanent(error):
                raise unusable_store(tracking_uri, "logger.tracking_uri", error) from None
            self._fail(error)

    def _begin(self) -> None:
        """Connect to the store, and create the run if it is new."""
        if self._run_id is None:
            experiment_id_of(self._tracking_uri, self._settings["experiment_name"])
        else:
            client = open_client(open_store(self._tracking_uri, "logger.tracking_uri"))
            check_run_not_deleted(client, self._run_id)
        super().__init__(**self._settings)
        # Lightning makes this store MLflow's default, which later runs of this process would take for the user's.
        default = os.environ.get(TRACKING_URI)
        try:
            super().experiment.update_run(self._run_id, status="RUNNING")
        finally:
            if default is None:
                os.environ.pop(TRACKING_URI, None)
            else:
                os.environ[TRACKING_URI] = default
        self._begun = True

    @property
    def experiment(self) -> MlflowClient:
        """MLflow's client; to Lightning, there is none until the store has been reached."""
        if not self._begun:
            raise AttributeError("the store has not been reached")
        return super().experiment

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow, which is known even if the store does not answer."""
        return self._run_id

    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        """Store the settings that the run was started with."""
        self._do(lambda: MLFlowLogger.log_hyperparams(self, params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send metrics, and those that could not be sent before, without waiting for the store."""
        self._points += self._points_of(metrics, step or 0)
        self._sender.submit(self._send_if_due)

    def unsent(self, metrics: Mapping[str, float], step: int) -> list[Point]:
        """Return the points that are not in the store, and those of ``metrics``, which are about to be logged.

        A point that is sent twice is stored once.
        """
        return [*self._points, *self._points_of(metrics, step)]

    def log_files(self, *paths: Path) -> None:
        """Store the files that exist as artifacts of the run."""
        self._do(*(partial(self._store_file, path) for path in paths if path.exists()))

    def finalize(self, status: str = "success") -> None:
        """Close the run as FINISHED, FAILED, or KILLED if it was interrupted by Ctrl-C or SIGTERM."""
        status = "KILLED" if isinstance(sys.exception(), KeyboardInterrupt) else status
        self._do(lambda: MLFlowLogger.finalize(self, status))
        if self._points:
            print(f"metrics not yet in MLflow: {self._unsent_path}; sent when the run is resumed", file=sys.stderr)

    def _points_of(self, metrics: Mapping[str, float], step: int) -> list[Point]:
        """Return metrics as points; all of one step have the same time, so that a point logged again is identical."""
        if step != self._stamp[0]:
            self._stamp = (step, int(time.time() * 1000))
        return [(name, float(value), self._stamp[1], step) for name, value in metrics.items()]

    def _do(self, *actions: Callable[[], object]) -> None:
        """Wait for an attempt to send everything and then to do ``actions``."""
        self._actions += actions
        self._sender.submit(self._send).result()

    # The methods below run in the sender's thread; the main thread only appends.

    def _store_file(self, path: Path) -> None:
        self.experiment.log_artifact(self.run_id, str(path))

    def _send_if_due(self) -> None:
        if time.monotonic() >= self._next_attempt:
            self._send()
        else:
            self._keep()

    def _send(self) -> None:
        """Try to send everything; if that fails, keep it and report it once."""
        try:
            if not self._begun:
                self._begin()
            run_id = self._run_id
            assert run_id is not None
            while self._points:
                points = self._points[:MAX_METRICS_PER_CALL]
                self.experiment.log_batch(run_id, metrics=[Metric(*point) for point in points], synchronous=True)
                del self._points[: len(points)]
            while self._actions:
                action = self._actions.popleft()
                try:
                    action()
                except Exception:
                    self._actions.append(action)  # behind the others, as it may never succeed
                    raise
            self._unsent_path.unlink(missing_ok=True)
        except Exception as error:  # whatever the store's own library raises
            self._fail(error)
        else:
            if self._failing:
                print("\ncan write to MLflow again", file=sys.stderr)
            self._failing = False

    def _fail(self, error: Exception) -> None:
        self._next_attempt = time.monotonic() + self.retry_seconds
        if not self._failing:
            print(
                f"\ncannot write to MLflow ({one_line(error)}); training continues, metrics are kept", file=sys.stderr
            )
        self._failing = True
        self._keep()

    def _keep(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk, memory still has them
            write_atomically(self._unsent_path, json.dumps(self._points))

    def _read_unsent(self) -> list[Point]:
        try:
            points = json.loads(self._unsent_path.read_text())
            return [(str(name), float(value), int(moment), int(step)) for name, value, moment, step in points]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            print(f"{self._unsent_path}: cannot be read ({error}); skipping its metrics", file=sys.stderr)
            return []
