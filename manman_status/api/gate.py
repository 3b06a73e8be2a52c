"""The gate of every request, known path or not: tokens, methods, time limits, and the request's
id.

A client that sends or takes nothing holds one connection for a bounded time and next to no memory:
a posted body is read whole before anything looks at it, and a large answer is handed on in pieces
as they are taken.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from time import perf_counter
from typing import TYPE_CHECKING
from urllib.parse import quote

import structlog
from litestar import Request
from litestar.enums import ScopeType
from litestar.response.redirect import ASGIRedirectResponse
from structlog.contextvars import bound_contextvars

from manman_status.api.errors import ReadOnly, RequestTooSlow, Unauthorized, problem_response
from manman_status.api.page.sign_in import LONGEST_FORM_BYTES, SIGN_IN, SIGN_OUT, is_signed_in
from manman_status.api.page.site import is_open, is_page

if TYPE_CHECKING:
    from litestar.types import ASGIApp, HTTPRequestEvent, HTTPScope, Message, Receive, Scope, Send

    from manman_status.api.tokens import Tokens

log = structlog.get_logger()

OPEN_PATHS = frozenset({"/livez", "/readyz", "/health", "/status/health"})
METRICS_PATH = "/metrics"
QUIET_PATHS = OPEN_PATHS | {METRICS_PATH}
POSTED_PATHS = frozenset({SIGN_IN, SIGN_OUT})
BADGE_PATH = re.compile(r"/status/(workers/[1-9][0-9]{0,18}/)?badge\.svg")
REQUEST_ID = re.compile(rb"[!-~]{1,128}")
FORWARDED_FOR = re.compile(rb"[0-9A-Fa-f:., ]{1,200}")
PIECE_BYTES = 64 * 1024
STALLED_SECONDS = 30.0
POSTED_WITHIN_SECONDS = 10.0
CLIENT_LEFT = 499
"""Status in the log of a request whose client left, by nginx's custom."""


class Gate:
    """Wraps the whole application: Litestar's own middleware does not see a path that has no
    route."""

    def __init__(self, app: ASGIApp, *, tokens: Tokens, public_badges: bool) -> None:
        self._app = app
        self._tokens = tokens
        self._public_badges = public_badges

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        given = _header(scope, b"x-request-id")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()

        begun, method, status = perf_counter(), scope["method"], 500
        has_stalled = False

        async def answer(message: Message) -> None:
            nonlocal status, has_stalled
            if message["type"] == "http.response.start":
                status = int(message["status"])
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            if not has_stalled:
                has_stalled = not await _send(message, send)

        with bound_contextvars(request_id=request_id.decode()):
            try:
                if not self._is_allowed(scope):
                    app = (
                        _to_sign_in(scope) if _is_visit(scope) else _refusal(scope, Unauthorized())
                    )
                elif scope["method"] == "POST" and scope["path"] in POSTED_PATHS:
                    app, receive = self._app, _replay(await _read_body(receive))
                elif scope["method"] not in {"GET", "HEAD"}:
                    app = _refusal(scope, ReadOnly())
                else:
                    scope["method"] = "GET"  # for HEAD too: the server leaves out the body
                    app = self._app
                await app(scope, receive, answer)
            except ClientLeft:
                status = CLIENT_LEFT
            except RequestTooSlow as error:
                await _refusal(scope, error)(scope, receive, answer)
            finally:
                # The route and not the path or the query: those may hold what nobody should read.
                say = log.debug if _is_routine(scope) and status < 400 else log.info
                ms = round((perf_counter() - begun) * 1000, 1)
                route = scope.get("path_template")
                say(
                    "request",
                    method=method,
                    route=route,
                    status=status,
                    duration_ms=ms,
                    **_sender(scope),
                )

    def _is_allowed(self, scope: HTTPScope) -> bool:
        path = scope["path"]
        if not self._tokens.are_needed or path in OPEN_PATHS or is_open(path):
            return True
        if self._public_badges and BADGE_PATH.fullmatch(path):
            return True
        shown = [
            value.partition(b" ") for name, value in scope["headers"] if name == b"authorization"
        ]
        if not any(scheme.lower() == b"bearer" for scheme, _, _ in shown):
            return is_signed_in(scope, self._tokens)  # another scheme is for a proxy in front of us
        return len(shown) == 1 and self._tokens.accept(
            shown[0][2], for_metrics=path == METRICS_PATH
        )


class ClientLeft(Exception):  # noqa: N818
    """The client left before it had sent its request."""


async def _send(message: Message, send: Send) -> bool:
    """A body that is all there, in pieces: the server keeps no more of it than its client takes.
    False when the client has taken nothing for long; without an end the connection is closed
    then."""
    if (
        message["type"] != "http.response.body"
        or len(message["body"]) <= PIECE_BYTES
        or message.get("more_body")
    ):
        await send(message)
        return True
    body = memoryview(message["body"])
    try:
        for place in range(0, len(body), PIECE_BYTES):
            piece = bytes(body[place : place + PIECE_BYTES])
            async with asyncio.timeout(STALLED_SECONDS):
                await send(
                    {
                        "type": "http.response.body",
                        "body": piece,
                        "more_body": place + PIECE_BYTES < len(body),
                    }
                )
    except TimeoutError:
        return False
    return True


async def _read_body(receive: Receive) -> bytes:
    """Read at most what a form may have, and a byte more. Raises ClientLeft, RequestTooSlow."""
    body, has_more = bytearray(), True
    try:
        async with asyncio.timeout(POSTED_WITHIN_SECONDS):
            while has_more and len(body) <= LONGEST_FORM_BYTES:
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientLeft
                body += message["body"]
                has_more = message["more_body"]
    except TimeoutError:
        raise RequestTooSlow from None
    return bytes(body)


def _replay(body: bytes) -> Receive:
    async def receive() -> HTTPRequestEvent:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _sender(scope: HTTPScope) -> dict[str, str]:
    """The address that the request came from, and what a proxy there says of whom it came from."""
    forwarded_for = _header(scope, b"x-forwarded-for")
    sender = {"client": scope["client"][0]} if scope["client"] else {}
    if FORWARDED_FOR.fullmatch(forwarded_for):
        sender["forwarded_for"] = forwarded_for.decode()
    return sender


def _header(scope: HTTPScope, name: bytes) -> bytes:
    """Its first value, empty without one."""
    return next((value for key, value in scope["headers"] if key == name), b"")


def _is_visit(scope: HTTPScope) -> bool:
    """A browser is to show this page to a person."""
    return (
        scope["method"] == "GET"
        and is_page(scope["path"])
        and b"text/html" in _header(scope, b"accept")
    )


def _is_routine(scope: HTTPScope) -> bool:
    """True for requests that machines and open pages send every few seconds."""
    path = scope["path"]
    is_poll = is_page(path) and any(name == b"hx-request" for name, _ in scope["headers"])
    return is_poll or path in QUIET_PATHS or path.startswith("/page/")


def _to_sign_in(scope: HTTPScope) -> ASGIApp:
    query = scope["query_string"].decode("latin-1")
    to = quote(f"{scope['path']}?{query}" if query else scope["path"], safe="")
    return ASGIRedirectResponse(
        f"{SIGN_IN}?to={to}", status_code=303, headers={"cache-control": "no-store"}
    )


def _refusal(scope: HTTPScope, error: Exception) -> ASGIApp:
    return problem_response(error).to_asgi_response(app=None, request=Request(scope))
