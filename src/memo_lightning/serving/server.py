"""The server: listens on a port, and stops without leaving requests unanswered."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from memo_lightning.errors import UserError, require
from memo_lightning.serving.app import build_app
from memo_lightning.serving.service import Service

TOKEN_VARIABLE = "MEMO_SERVE_TOKEN"
_DRAIN_SECONDS = 30.0
_LINGER_SECONDS = 0.5  # during which clients are told that the server is stopping, rather than cut off


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket, so that a wrong address fails before anything is loaded.

    Args:
        host: an address or a name of this machine.
        port: the port; 0 for any free one.

    Raises:
        UserError: if the port cannot be used, or the address is not one of this machine.
    """
    require(0 <= port < 65536, "port", port, "between 0 and 65535; 0 takes any free port")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UserError(f"host={host}: must be an address of this machine, e.g. host=127.0.0.1") from None
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        if isinstance(error, PermissionError):
            raise UserError(f"port={port}: needs administrator rights; must be 1024 or more") from None
        if error.errno == 98 or "in use" in str(error):
            raise UserError(f"port={port}: in use; must be a free port, or port=0 for any") from None
        raise UserError(f"host={host}: must be an address of this machine, e.g. host=127.0.0.1") from None
    return listening


def is_loopback(listening: socket.socket) -> bool:
    """Return whether a socket listens only to this machine."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def read_token(file: str | None) -> str | None:
    """Return the token from a file, or else from the environment variable; None if neither is given.

    Raises:
        UserError: if the file cannot be read, or the token is too short or malformed. Messages never contain the token.
    """
    if file is not None:
        try:
            token = Path(file).read_text().strip()
        except (OSError, ValueError):
            # What was given may be the token itself, so it is not repeated.
            raise UserError(
                f"token: must be the path of a readable file with the token, not the token itself, which others could "
                f"see in the process list; or set {TOKEN_VARIABLE}"
            ) from None
    else:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token:
            return None
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            "token: must be at least 16 ASCII characters without spaces; make one with "
            "python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def serve(service: Service, listening: socket.socket, token: str | None, ready: Callable[[str], object]) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that arrived by then are still answered.

    Args:
        service: the service.
        listening: the listening socket.
        token: token that requests must carry; None for no token.
        ready: called with the address once the server accepts requests.
    """
    app = build_app(service, token, loopback=is_loopback(listening))
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # session names are as good as passwords
        server_header=False,
        ws="websockets-sansio",
        ws_max_size=service.limits.max_bytes,
        ws_per_message_deflate=False,
        timeout_keep_alive=75,  # seconds; a robot's step may take long
        timeout_graceful_shutdown=5,
        lifespan="on",
    )
    host, port = listening.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    asyncio.run(_Server(config, service, lambda: ready(address)).serve([listening]))


class _Server(uvicorn.Server):
    """A server that, after a signal, answers pending requests, briefly refuses new ones, and exits with status 0."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._service, self._ready = service, ready
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and report when requests are accepted."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain at the first signal, and exit at once at the second."""
        loop, signals = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)

        def stop() -> None:
            if self._draining is None:
                self._draining = loop.create_task(self._drain())
            else:
                self.should_exit = self.force_exit = True

        for number in signals:
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    async def _drain(self) -> None:
        await self._service.drained(_DRAIN_SECONDS)
        await asyncio.sleep(_LINGER_SECONDS)
        self.should_exit = True
