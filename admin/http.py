"""shell: the JSON API of a node: Starlette over `NodeView`, served by uvicorn in the node's loop.

Every node serves it on its own port. Callers send the cluster's token as `Authorization: Bearer`;
only the OpenAPI document is open to all. Importing this module imports Starlette and uvicorn (about
50 ms and 6 MiB), so a node imports it after its data path is up, or before it is forked.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from admin import metrics
from admin.openapi import STATUS_OF, document
from admin.operations import OPERATIONS, Ask, Operation
from admin.view import NodeView
from base.errors import AccessDenied, ConfigError, InvalidRequest, StorageError
from base.units import KiB

BODY_BYTES_MAX: Final = 64 * KiB
CONNECTIONS_MAX: Final = 64
BODY_SECONDS_MAX: Final = 10.0

log = structlog.get_logger()


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return Response(text, status, headers, media_type="application/json")


def _refusal(code: str, text: str, *, definite: bool, status: int) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return _json({"code": code, "text": text, "definite": definite}, status, headers)


def _storage_refusal(error: StorageError) -> Response:
    code = getattr(error, "remote_code", error.code)  # what another node refused, as it said it
    return _refusal(
        code, str(error), definite=error.definite, status=STATUS_OF.get(code, 500)
    )  # fmt: skip


class TokenCheck:
    """ASGI: refuses every request without the token, before anything else is looked at."""

    def __init__(self, app: ASGIApp, token: str, node: str) -> None:
        self._app = app
        self._wanted = hmac.new(b"token", token.encode(), "sha256").digest()
        self._node = node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/openapi.json":
            given = b""
            for key, value in scope["headers"]:
                if key == b"authorization":
                    given = value
            scheme, _, token = given.partition(b" ")
            # Digests of one length, compared in constant time: neither length nor prefix leaks.
            digest = hmac.new(b"token", token.strip(), "sha256").digest()
            if scheme.lower() != b"bearer" or not hmac.compare_digest(digest, self._wanted):
                caller = scope.get("client") or ("-", 0)
                log.warning(
                    "admin.refused",
                    node=self._node,
                    caller=f"{caller[0]}:{caller[1]}",
                    path=scope["path"][:200],
                    reason="wrong token" if given else "no token",
                )
                error = AccessDenied(
                    "send the token of the cluster (file `token` in its directory)"
                    " as Authorization: Bearer"
                )
                await _storage_refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _TooLarge(Exception):  # never leaves this module
    pass


async def _body(request: Request, bytes_max: int) -> dict[str, Any]:
    """The JSON object in the body, which is never held beyond its bound."""
    raw = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for part in request.stream():
                raw += part
                if len(raw) > bytes_max:
                    raise _TooLarge
    except TimeoutError:
        raise InvalidRequest(f"body: did not arrive within {BODY_SECONDS_MAX:g} s") from None
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidRequest("body: is not JSON") from None
    if not isinstance(body, dict):
        raise InvalidRequest("body: must be a JSON object")
    return body


def _query(request: Request, operation: Operation) -> dict[str, int]:
    known = {number.name for number in operation.query}
    for key in sorted(request.query_params):
        if key not in known:
            raise InvalidRequest(f"{key}: is not a parameter of {operation.path}")
    values: dict[str, int] = {}
    for number in operation.query:
        text = request.query_params.get(number.name)
        if text is None:
            if number.default is None:
                raise InvalidRequest(f"{number.name}: is missing")
            values[number.name] = number.default
            continue
        plain = text.isascii() and text.isdigit() and len(text) <= 19
        if not plain or not number.least <= int(text) <= number.most:
            raise InvalidRequest(
                f"{number.name}: must be a number from {number.least} to {number.most}"
            )
        values[number.name] = int(text)
    return values


def _endpoint(
    operation: Operation, view: NodeView, body_bytes_max: int
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            body = await _body(request, body_bytes_max) if operation.body is not None else {}
            ask = Ask(dict(request.path_params), _query(request, operation), body)
            return _json(await operation.perform(view, ask), operation.status)
        except StorageError as error:
            return _storage_refusal(error)
        except _TooLarge:
            text = f"body: is larger than {body_bytes_max} bytes"
            return _refusal("invalid", text, definite=True, status=413)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            log.error("admin.failed", path=operation.path, error=repr(error), exc_info=True)
            text = "an error inside the node; its log says more"
            return _refusal("internal", text, definite=False, status=500)

    return answer


async def _http_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "not_found" if error.status_code == 404 else "invalid"
    text = f"{request.method} {request.url.path[:200]}: {error.detail}; see /openapi.json"
    return _refusal(code, text, definite=True, status=error.status_code)


def build_app(
    view: NodeView, *, token: str, node: str = "-", body_bytes_max: int = BODY_BYTES_MAX
) -> ASGIApp:
    """The API over one node's view. `node` is for the log."""

    async def serve_metrics(request: Request) -> Response:
        try:
            text = metrics.encode(await view.statistics(), await view.status())
        except StorageError as error:
            return _storage_refusal(error)
        return Response(text, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def serve_document(request: Request) -> Response:
        return _json(document())

    routes = [
        Route(each.path, _endpoint(each, view, body_bytes_max), methods=[each.method])
        for each in OPERATIONS
    ]
    routes.append(Route("/metrics", serve_metrics, methods=["GET"]))
    routes.append(Route("/openapi.json", serve_document, methods=["GET"]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_refusal})
    return TokenCheck(app, token, node)


class _ServerLog(logging.Handler):
    """What uvicorn complains about belongs into the log of the node, in its form."""

    def emit(self, record: logging.LogRecord) -> None:
        log.warning("server.complained", text=record.getMessage(), exc_info=record.exc_info)


class AdminServer:
    """uvicorn inside the node's own loop: no signal hooks, no logging set-up, no lifespan."""

    def __init__(self, app: ASGIApp) -> None:
        heard = logging.getLogger("uvicorn.error")
        heard.handlers = [_ServerLog(logging.WARNING)]
        heard.propagate = False
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                loop="none",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,  # nothing of it needs the timer that uvicorn's own loop runs
                proxy_headers=False,
                limit_concurrency=CONNECTIONS_MAX,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=1,
            )
        )
        self._socket: socket.socket | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._socket is not None
        return int(self._socket.getsockname()[1])

    async def start(self, host: str, port: int) -> None:
        """Listen. ConfigError when the port is taken. port 0: any."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # The protocol is named because asyncio switches Nagle's delay off only when it is: without
        # it every answer (head and body are two writes) takes 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(64)
        except OSError as error:
            listener.close()
            raise ConfigError(f"admin_port: {host}:{port}: {error.strerror or error}") from None
        listener.setblocking(False)
        self._socket = listener
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        # Not `serve()`: its loop wakes ten times a second, in each of eight nodes, for a date.
        await self._server.startup(sockets=[self._socket])

    async def close(self) -> None:
        """Answer what was asked, for a second at most, and stop listening."""
        if self._socket is None:
            return
        await self._server.shutdown(sockets=[self._socket])
        self._socket = None
        state = self._server.server_state
        # A client that did not go by itself must not ask anything of a node that is ending, and
        # what uvicorn has cancelled it does not wait for: a loop that closes would drop it.
        for connection in list(state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        for task in list(state.tasks):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def serve(
    view: NodeView,
    *,
    host: str,
    port: int,
    token: str,
    node: str = "-",
    body_bytes_max: int = BODY_BYTES_MAX,
) -> AdminServer:
    """Start the API of a node; close what is returned. ConfigError when the port is taken."""
    server = AdminServer(build_app(view, token=token, node=node, body_bytes_max=body_bytes_max))
    await server.start(host, port)
    return server
