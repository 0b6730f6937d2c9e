"""The service over HTTP and WebSocket."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from memo_lightning.serving.codec import MEDIA_TYPES, Kind, Unreadable, decode, encode, kind_of
from memo_lightning.serving.schemas import openapi
from memo_lightning.serving.service import Refused, Service
from memo_lightning.serving.sessions import Session

_NO_SESSION, _STOPPING = 4404, 1012  # close codes of a WebSocket
_RETRY_SECONDS = {503: "1"}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def build_app(service: Service, token: str | None, *, loopback: bool) -> ASGIApp:
    """Build the ASGI application of a service.

    Args:
        service: the service.
        token: token that every request must carry, except for ``/health``; None for no token.
        loopback: whether it listens to this machine only; it then answers only to names of this machine.
    """
    described = openapi(service.agent, needs_token=token is not None)

    async def begin(request: Request, kind: Kind) -> Response:
        session = service.begin(await _body(request, kind, service.limits.max_bytes, may_be_empty=True))
        return _answer(service.describe(session), kind, 201)

    async def act(request: Request, kind: Kind) -> Response:
        name = request.path_params["session"]
        service.find(name)  # before its body is read
        told = await _body(request, kind, service.limits.max_bytes)
        return _answer(await service.act(name, told), kind)

    async def reset(request: Request, kind: Kind) -> Response:
        return _answer(service.reset(request.path_params["session"]), kind)

    async def end(request: Request, kind: Kind) -> Response:
        service.end(service.find(request.path_params["session"]))
        return Response(status_code=204)

    async def health(request: Request) -> Response:
        return JSONResponse(service.health(), 503 if service.is_stopping else 200)

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(service.metrics_text(), media_type="text/plain; version=0.0.4")

    async def describe(request: Request) -> Response:
        return JSONResponse(described)

    async def websocket(socket: WebSocket) -> None:
        await _converse(service, socket)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        paths = ", ".join(described["paths"])
        refusal = f"{request.method} {request.url.path}: {error.detail.lower()}"
        text = f"{refusal}; the paths are {paths}, /ws and /openapi.json"
        return JSONResponse({"error": text}, error.status_code, error.headers)

    def counted(kind: str, handler: Callable[[Request, Kind], Coroutine[Any, Any, Response]]) -> Handler:
        async def handle(request: Request) -> Response:
            answer_kind: Kind = "json"
            try:
                answer_kind = _answer_kind(request)
                response = await handler(request, answer_kind)
            except Refused as error:
                headers = {"retry-after": _RETRY_SECONDS[error.status]} if error.status in _RETRY_SECONDS else {}
                response = _answer({"error": str(error)}, answer_kind, error.status, headers)
            service.metrics.requests[kind, response.status_code] += 1
            return response

        return handle

    app = Starlette(
        routes=[
            Route("/sessions", counted("begin", begin), methods=["POST"]),
            Route("/sessions/{session}/act", counted("act", act), methods=["POST"]),
            Route("/sessions/{session}/reset", counted("reset", reset), methods=["POST"]),
            Route("/sessions/{session}", counted("end", end), methods=["DELETE"]),
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/openapi.json", describe),
            WebSocketRoute("/ws", websocket),
        ],
        exception_handlers={HTTPException: refused},
        lifespan=service.running,
    )
    return Guard(app, token, loopback=loopback)


class Guard:
    """Middleware that refuses requests without the token, and requests from pages of other sites.

    A page in a browser can send requests to servers on the same machine. But it cannot hide its origin nor, if it
    reaches this machine under a host name of its own, that name.

    Args:
        app: the application to guard.
        token: the required token; None for no token.
        loopback: whether to answer only to names of this machine.
    """

    def __init__(self, app: ASGIApp, token: str | None, *, loopback: bool) -> None:
        self._app, self._token, self._loopback = app, token, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(HTTPConnection(scope))
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(refusal)
        else:
            await refusal(scope, receive, send)

    def _refusal(self, connection: HTTPConnection) -> Response | None:
        host, origin = connection.headers.get("host", ""), connection.headers.get("origin")
        if self._loopback and not _is_loopback(_host_name(host)):
            allowed = "127.0.0.1 or localhost; to allow others, start memo serve with host= and a token"
            return _error(403, f"host={host}: must be {allowed}")
        if origin is not None and origin.partition("://")[2] != host:
            return _error(403, f"origin={origin}: must be this server; pages from other sites are refused")
        if self._token is not None and connection.url.path != "/health":
            given = connection.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
                headers = {"www-authenticate": "Bearer"}
                return _error(401, "the token is missing or wrong; send it as 'Authorization: Bearer TOKEN'", headers)
        return None


async def _converse(service: Service, socket: WebSocket) -> None:
    """Act for one session, one message per step; a session that was begun for the connection ends with it."""
    await socket.accept()
    session: Session | None = None
    own = "session" not in socket.query_params
    try:
        try:
            session = service.begin(_asked(socket)) if own else service.find(socket.query_params["session"])
        except Refused as error:
            await _refuse(socket, error, "json")
            await socket.close(_close_code(error), "refused")
            return
        await socket.send_text(encode(service.describe(session), "json").decode())
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            kind: Kind = "json" if message.get("text") is not None else "msgpack"
            status = 500  # for unexpected errors
            try:
                reply = await _reply(service, session, message["text"] if kind == "json" else message["bytes"], kind)
                status = 200
                await _send(socket, reply, kind)
            except Refused as error:
                status = error.status
                await _refuse(socket, error, kind)
                if status in (404, 500, 503):
                    await socket.close(_close_code(error), "the session has ended")
                    return
            finally:
                service.metrics.requests["message", status] += 1
    except WebSocketDisconnect:
        return
    finally:
        if own and session is not None:
            service.end(session)


async def _reply(service: Service, session: Session, data: bytes | str, kind: Kind) -> dict[str, Any]:
    try:
        told = decode(data, kind)
    except Unreadable as error:
        raise Refused(400, str(error)) from None
    if "reset" in told:
        if told["reset"] is not True or len(told) > 1:
            raise Refused(422, "reset: must be true, and the only field of its message")
        return service.reset(session.name)
    return await service.act(session.name, told)


def _asked(socket: WebSocket) -> dict[str, Any]:
    """Return the settings of a new session from the query, e.g. ``?seed=0&deterministic=true``."""
    asked: dict[str, Any] = dict(socket.query_params)
    if asked.get("seed", "").isdecimal():
        asked["seed"] = int(asked["seed"])
    if asked.get("deterministic") in ("true", "false"):
        asked["deterministic"] = asked["deterministic"] == "true"
    return asked


async def _send(socket: WebSocket, message: dict[str, Any], kind: Kind) -> None:
    data = encode(message, kind)
    await (socket.send_text(data.decode()) if kind == "json" else socket.send_bytes(data))


async def _refuse(socket: WebSocket, error: Refused, kind: Kind) -> None:
    await _send(socket, {"error": str(error), "status": error.status}, kind)


def _close_code(error: Refused) -> int:
    return _NO_SESSION if error.status == 404 else _STOPPING if error.status == 503 else 1011


async def _body(request: Request, kind: Kind, max_bytes: int, *, may_be_empty: bool = False) -> dict[str, Any]:
    """Read and decode the body of a request.

    Raises:
        Refused: if it is too large or cannot be read.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise Refused(413, f"the body is larger than {max_bytes} bytes, the limit for this policy's observations")
        parts.append(part)
    body = b"".join(parts)
    if not body and may_be_empty:
        return {}
    sent = kind_of(request.headers.get("content-type", ""))
    if sent is None:
        given = request.headers.get("content-type")
        raise Refused(415, f"content-type={given}: must be {' or '.join(MEDIA_TYPES.values())}")
    try:
        return decode(body, sent)
    except Unreadable as error:
        raise Refused(400, str(error)) from None


def _answer_kind(request: Request) -> Kind:
    """Return the kind of message that the client accepts; by default, that of its request."""
    headers = request.headers
    return kind_of(headers.get("accept", "")) or kind_of(headers.get("content-type", "")) or "json"


def _answer(message: dict[str, Any], kind: Kind, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encode(message, kind), status, headers, MEDIA_TYPES[kind])


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


def _host_name(host: str) -> str:
    """Return a ``Host`` header without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
