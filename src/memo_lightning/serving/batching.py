"""Batching of steps that arrive one by one."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from memo_lightning.errors import UserError
from memo_lightning.serving.actor import Answer, BatchedActor, Step
from memo_lightning.serving.metrics import Metrics
from memo_lightning.serving.sessions import Session


class SessionLost(RuntimeError):
    """The model failed during a step, and the session's memory may be wrong."""


@dataclass(eq=False)
class _Waiting:
    session: Session
    step: Step
    answer: asyncio.Future[Answer]
    arrived: float = field(default_factory=time.perf_counter)


class Batcher:
    """A queue that collects the steps of all sessions and has them answered batch by batch.

    While the model computes, new steps wait for the next call. Steps of one session are answered in the order in which
    they arrived.

    Args:
        actor: acts for the sessions, in a thread of this class.
        max_batch: maximum number of steps per call.
        wait_seconds: time that a call waits for further steps.
        metrics: updated with sizes and times.
        lost: called with sessions whose memory may be wrong.
    """

    def __init__(
        self,
        actor: BatchedActor,
        max_batch: int,
        wait_seconds: float,
        metrics: Metrics,
        lost: Callable[[Session], object],
    ) -> None:
        self._actor, self._max_batch, self._wait_seconds = actor, max_batch, wait_seconds
        self._metrics, self._lost = metrics, lost
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._n_running = 0

    @property
    def n_pending(self) -> int:
        """Number of steps that are not answered yet."""
        return len(self._waiting) + self._n_running

    async def act(self, session: Session, step: Step) -> Answer:
        """Return the answer to a step.

        Raises:
            UserError: if the step cannot be answered; the session is unchanged, unless the message says otherwise.
            SessionLost: if the model failed.
        """
        waiting = _Waiting(session, step, asyncio.get_running_loop().create_future())
        session.in_flight += 1
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.answer

    def forget(self, session: Session) -> None:
        """Clear the memory of a session, after the steps that are being answered."""
        with contextlib.suppress(RuntimeError):  # the thread has ended, and there is no memory any more
            self._thread.submit(self._actor.forget, session.player)

    async def run(self) -> None:
        """Answer steps until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if self._wait_seconds and len(self._waiting) < self._max_batch:
                await asyncio.sleep(self._wait_seconds)
            batch = self._take()
            started = time.perf_counter()
            players, steps = [w.session.player for w in batch], [w.step for w in batch]
            results: list[Any]
            try:
                results = list(await loop.run_in_executor(self._thread, self._actor.act, players, steps))
            except Exception:  # whatever a model, a device or an allocator raises; the server keeps running
                traceback.print_exc(file=sys.stderr)
                lost = SessionLost("the model failed, and this session is lost; begin a new one")
                results = [lost] * len(batch)
            self._n_running = 0
            self._metrics.batches.observe(len(batch))
            self._metrics.calls.observe(time.perf_counter() - started)
            for waiting, result in zip(batch, results, strict=True):
                self._tell(waiting, result)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _take(self) -> list[_Waiting]:
        """Return the steps of the next call, at most one per session."""
        batch: list[_Waiting] = []
        left: list[_Waiting] = []
        taken: set[Session] = set()
        for waiting in self._waiting:
            if len(batch) < self._max_batch and waiting.session not in taken:
                batch.append(waiting)
            else:
                left.append(waiting)
            taken.add(waiting.session)
        self._waiting, self._n_running = left, len(batch)
        if not left:
            self._arrived.clear()
        return batch

    def _tell(self, waiting: _Waiting, result: Answer | UserError | SessionLost) -> None:
        waiting.session.in_flight -= 1
        self._metrics.steps.observe(time.perf_counter() - waiting.arrived)
        if isinstance(result, SessionLost):
            self._lost(waiting.session)
        if waiting.session.is_over:  # it ended while the step was waiting; its memory would be kept for ever
            self.forget(waiting.session)
        if waiting.answer.done():  # the client has gone
            return
        if isinstance(result, Answer):
            waiting.answer.set_result(result)
        else:
            waiting.answer.set_exception(result)
