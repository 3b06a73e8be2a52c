"""What holds for every request, known path or not: who may ask, how, and under which id it is known."""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from time import perf_counter
from typing import TYPE_CHECKING

import structlog
from litestar import Request
from litestar.enums import ScopeType
from structlog.contextvars import bound_contextvars

from manman_status.api.errors import ReadOnly, Unauthorized, problem_response

if TYPE_CHECKING:
    from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

log = structlog.get_logger()

OPEN_PATHS = frozenset({"/livez", "/readyz", "/health"})
QUIET_PATHS = OPEN_PATHS | {"/metrics"}
"""What machines ask every few seconds."""
REQUEST_ID = re.compile(rb"[!-~]{1,128}")
LONGEST_TOKEN = 4096


class Gate:
    """Wraps the whole application: Litestar's own middleware does not see a path that has no route."""

    def __init__(self, app: ASGIApp, *, tokens: tuple[str, ...]) -> None:
        self._app = app
        self._digests = [_digest(token.encode()) for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()

        begun, method, status = perf_counter(), scope["method"], 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        with bound_contextvars(request_id=request_id.decode()):
            if not self._may_ask(scope):
                app = _refusal(scope, Unauthorized())
            elif scope["method"] not in {"GET", "HEAD"}:
                app = _refusal(scope, ReadOnly())
            else:
                scope["method"] = "GET"  # for HEAD too: the server leaves out the body
                app = self._app
            try:
                await app(scope, receive, answer)
            finally:
                # The route and not the path or the query: those may hold what nobody should read.
                say = log.debug if scope["path"] in QUIET_PATHS else log.info
                ms = round((perf_counter() - begun) * 1000, 1)
                say("request", method=method, route=scope.get("path_template"), status=status, duration_ms=ms)

    def _may_ask(self, scope: HTTPScope) -> bool:
        if not self._digests or scope["path"] in OPEN_PATHS:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        if scheme.lower() != b"bearer" or len(token) > LONGEST_TOKEN:
            return False
        # Digests have one length, and all are compared: the time taken tells nothing about any token.
        found = [hmac.compare_digest(_digest(token), digest) for digest in self._digests]
        return any(found)


def _refusal(scope: HTTPScope, error: Exception) -> ASGIApp:
    return problem_response(error).to_asgi_response(app=None, request=Request(scope))


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
