"""Sessions of a server: how many there may be, and when they expire."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from memo_lightning.serving.actor import Player

EXPIRED = "unknown or expired session; begin a new one"


class NoSession(LookupError):
    """The session does not exist, or no longer does."""


class TooManySessions(RuntimeError):
    """There is no room for another session."""


@dataclass(eq=False)
class Session:
    """One environment that the policy acts in.

    Attributes:
        player: acts for the session.
        name: name by which clients refer to it, which nobody can guess.
        used: time of the last request, in seconds.
        in_flight: number of steps that are not answered yet.
        is_over: whether it has ended.
    """

    player: Player
    name: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    used: float = 0.0
    in_flight: int = 0
    is_over: bool = False


class Sessions:
    """All sessions of a server.

    Args:
        most: maximum number of sessions at a time.
        idle_seconds: time without requests after which a session expires.
        ended: called with every session that ends.
        clock: returns the time in seconds.

    Attributes:
        n_created: number of sessions so far.
        n_expired: number of sessions that expired.
    """

    def __init__(
        self,
        most: int,
        idle_seconds: float,
        ended: Callable[[Session], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._idle_seconds, self._ended, self._clock = most, idle_seconds, ended, clock
        self._sessions: dict[str, Session] = {}
        self.n_created = self.n_expired = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, player: Player) -> Session:
        """Begin a session.

        Raises:
            TooManySessions: if the maximum is reached.
        """
        if len(self._sessions) >= self._most:
            self.expire()
        if len(self._sessions) >= self._most:
            raise TooManySessions(
                f"max_sessions={self._most}: all are in use; delete a session, wait until one has been idle for "
                f"{self._idle_seconds:g} s, or start the server with a larger max_sessions"
            )
        session = Session(player, used=self._clock())
        self._sessions[session.name] = session
        self.n_created += 1
        return session

    def find(self, name: str) -> Session:
        """Return a session, and restart its idle time.

        Raises:
            NoSession: if there is none of this name, or it has expired.
        """
        session = self._sessions.get(name)
        if session is None:
            raise NoSession(EXPIRED)
        if self._is_idle(session):
            self._expire(session)
            raise NoSession(EXPIRED)
        session.used = self._clock()
        return session

    def remove(self, session: Session) -> None:
        """End a session."""
        if self._sessions.pop(session.name, None) is not None:
            session.is_over = True
            self._ended(session)

    def expire(self) -> None:
        """End the sessions that have been idle for too long."""
        for session in [session for session in self._sessions.values() if self._is_idle(session)]:
            self._expire(session)

    def _is_idle(self, session: Session) -> bool:
        return not session.in_flight and self._clock() - session.used > self._idle_seconds

    def _expire(self, session: Session) -> None:
        self.n_expired += 1
        self.remove(session)
