"""The service of a policy, whatever the protocol: sessions begin, act, are reset and end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from memo_lightning.errors import UserError
from memo_lightning.policies import Agent
from memo_lightning.serving.actor import Answer, BatchedActor
from memo_lightning.serving.batching import Batcher, SessionLost
from memo_lightning.serving.metrics import Metrics
from memo_lightning.serving.sessions import NoSession, Session, Sessions, TooManySessions

STEP_FIELDS = ("observation", "reward", "episode_end", "is_first", "action_mask", "deterministic", "details")
SESSION_FIELDS = ("seed", "deterministic")
STOPPING = "the server is stopping; begin a new session after it has restarted"
_SWEEP_SECONDS = 1.0


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Attributes:
        max_sessions: maximum number of sessions at a time.
        idle_seconds: time without requests after which a session expires.
        max_batch: maximum number of steps answered in one call.
        batch_wait_seconds: time that a call waits for further steps.
        max_bytes: maximum size of a message.
    """

    max_sessions: int
    idle_seconds: float
    max_batch: int
    batch_wait_seconds: float
    max_bytes: int


class Refused(Exception):
    """The request is answered with an error.

    Attributes:
        status: HTTP status code.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service:
    """The sessions of a policy.

    Args:
        agent: the policy.
        limits: the limits of the server.
        deterministic: whether sessions take the most likely action by default.

    Attributes:
        agent: as given.
        limits: as given.
        metrics: metrics of the server.
        is_stopping: whether requests are refused because the server is stopping.
    """

    def __init__(self, agent: Agent, limits: Limits, *, deterministic: bool = False) -> None:
        self.agent, self.limits, self._deterministic = agent, limits, deterministic
        self.metrics = Metrics()
        self.is_stopping = False
        self._actor = BatchedActor(agent)
        self._sessions = Sessions(limits.max_sessions, limits.idle_seconds, self._ended)
        self._batcher = Batcher(
            self._actor, limits.max_batch, limits.batch_wait_seconds, self.metrics, self._sessions.remove
        )
        self._process = psutil.Process()

    @property
    def n_pending(self) -> int:
        """Number of steps that are not answered yet."""
        return self._batcher.n_pending

    @contextlib.asynccontextmanager
    async def running(self, *_: Any) -> Any:
        """Answer steps and expire idle sessions as long as the context is open."""
        tasks = [asyncio.create_task(self._batcher.run()), asyncio.create_task(self._sweep())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            self._batcher.close()

    async def drained(self, timeout: float) -> None:
        """Refuse new requests, and return when all pending steps are answered or ``timeout`` seconds have passed."""
        self.is_stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.n_pending:
                    await asyncio.sleep(0.01)

    def begin(self, told: Mapping[str, Any]) -> Session:
        """Begin a session; ``told`` may hold its ``seed`` and whether it is ``deterministic``."""
        self._check_running()
        _check_fields(told, SESSION_FIELDS)
        seed, deterministic = told.get("seed"), told.get("deterministic")
        if seed is not None and (type(seed) is not int or not 0 <= seed < 2**32):
            raise Refused(422, f"seed={seed!r}: must be a whole number from 0 to {2**32 - 1}")
        if deterministic is None:
            deterministic = self._deterministic
        if not isinstance(deterministic, bool):
            raise Refused(422, f"deterministic={deterministic!r}: must be true or false")
        try:
            return self._sessions.add(self._actor.player(seed, deterministic))
        except TooManySessions as error:
            raise Refused(503, str(error)) from None

    def find(self, name: str) -> Session:
        """Return a session, and restart its idle time."""
        try:
            return self._sessions.find(name)
        except NoSession as error:
            raise Refused(404, str(error)) from None

    def describe(self, session: Session) -> dict[str, Any]:
        """Return the description of a session for its client."""
        steps = session.player.memory.steps
        return {"session": session.name, "step": steps, "idle_seconds": self.limits.idle_seconds}

    async def act(self, name: str, told: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a step of a session."""
        self._check_running()
        session = self.find(name)
        try:
            _check_fields(told, STEP_FIELDS)
            step = self._actor.read(told, session.player)
        except (ValueError, TypeError) as error:  # a UserError, or NumPy's error for what is no observation at all
            raise Refused(422, str(error).partition("\n")[0]) from None
        try:
            answer = await self._batcher.act(session, step)
        except UserError as error:
            raise Refused(422, str(error)) from None
        except SessionLost as error:
            raise Refused(500, str(error)) from None
        return _as_plain(answer, details=step.details)

    def reset(self, name: str) -> dict[str, Any]:
        """Begin a new trial in a session."""
        self._check_running()
        session = self.find(name)
        self._batcher.forget(session)
        return {**self.describe(session), "step": 0}

    def end(self, session: Session) -> None:
        """End a session."""
        self._sessions.remove(session)

    def health(self) -> dict[str, Any]:
        """Return whether requests are accepted, and facts about the policy."""
        spec, training = self.agent.spec, self.agent.training
        return {
            "status": "stopping" if self.is_stopping else "ok",
            "sessions": len(self._sessions),
            "max_sessions": self.limits.max_sessions,
            "memory": type(self.agent.policy.sequence_model).__name__,
            "memory_budget": self.agent.policy.sequence_model.memory_budget,
            "frames": training.get("frames"),
            "masked": spec.interface.action.masked,
        }

    def metrics_text(self) -> str:
        """Return all metrics in the text format of Prometheus."""
        gauges = {
            "memo_sessions": ("Open sessions.", len(self._sessions)),
            "memo_max_sessions": ("Maximum number of sessions.", self.limits.max_sessions),
            "memo_pending_steps": ("Steps waiting for an answer.", self.n_pending),
            "memo_memory_bytes": ("Memory of all sessions in bytes.", self._actor.memories.nbytes),
            "memo_stopping": ("1 while the server is shutting down.", int(self.is_stopping)),
            "process_resident_memory_bytes": ("Resident memory of the server.", self._process.memory_info().rss),
        }
        counters = {
            "memo_sessions_created_total": ("Sessions begun.", self._sessions.n_created),
            "memo_sessions_expired_total": ("Sessions expired.", self._sessions.n_expired),
        }
        return self.metrics.text(gauges, counters)

    def _ended(self, session: Session) -> None:
        self._batcher.forget(session)

    def _check_running(self) -> None:
        if self.is_stopping:
            raise Refused(503, STOPPING)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, self.limits.idle_seconds))
            self._sessions.expire()


def _check_fields(told: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in told:
        if name not in known:
            raise Refused(422, f"unknown field {name!r}: must be one of {', '.join(known)}")


def _as_plain(answer: Answer, *, details: bool) -> dict[str, Any]:
    plain = {"action": answer.action, "step": answer.step}
    return {**plain, "value": answer.value, "probabilities": answer.probabilities} if details else plain
