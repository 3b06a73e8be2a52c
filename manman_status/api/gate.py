"""What holds for every request, known path or not: who may ask, how, and under which id it is known."""

from __future__ import annotations

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

from manman_status.api.errors import ReadOnly, Unauthorized, problem_response
from manman_status.api.page.sign_in import SIGN_IN, SIGN_OUT, is_signed_in
from manman_status.api.page.site import is_open, is_page

if TYPE_CHECKING:
    from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

    from manman_status.api.tokens import Tokens

log = structlog.get_logger()

OPEN_PATHS = frozenset({"/livez", "/readyz", "/health"})
QUIET_PATHS = OPEN_PATHS | {"/metrics"}
POSTED_PATHS = frozenset({SIGN_IN, SIGN_OUT})
BADGE_PATH = re.compile(r"/status/(workers/[1-9][0-9]{0,18}/)?badge\.svg")
REQUEST_ID = re.compile(rb"[!-~]{1,128}")


class Gate:
    """Wraps the whole application: Litestar's own middleware does not see a path that has no route."""

    def __init__(self, app: ASGIApp, *, tokens: Tokens, public_badges: bool) -> None:
        self._app = app
        self._tokens = tokens
        self._public_badges = public_badges

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
                app = _to_sign_in(scope) if _is_visit(scope) else _refusal(scope, Unauthorized())
            elif scope["method"] == "POST" and scope["path"] in POSTED_PATHS:
                app = self._app
            elif scope["method"] not in {"GET", "HEAD"}:
                app = _refusal(scope, ReadOnly())
            else:
                scope["method"] = "GET"  # for HEAD too: the server leaves out the body
                app = self._app
            try:
                await app(scope, receive, answer)
            finally:
                # The route and not the path or the query: those may hold what nobody should read.
                say = log.debug if _is_routine(scope) and status < 400 else log.info
                ms = round((perf_counter() - begun) * 1000, 1)
                say("request", method=method, route=scope.get("path_template"), status=status, duration_ms=ms)

    def _may_ask(self, scope: HTTPScope) -> bool:
        if not self._tokens.are_needed or scope["path"] in OPEN_PATHS or is_open(scope["path"]):
            return True
        if self._public_badges and BADGE_PATH.fullmatch(scope["path"]):
            return True
        shown = [value.partition(b" ") for name, value in scope["headers"] if name == b"authorization"]
        if not any(scheme.lower() == b"bearer" for scheme, _, _ in shown):
            return is_signed_in(scope, self._tokens)  # another scheme is for a proxy in front of us
        return len(shown) == 1 and self._tokens.accept(shown[0][2])


def _is_visit(scope: HTTPScope) -> bool:
    """A browser is to show this page to a person."""
    accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
    return scope["method"] == "GET" and is_page(scope["path"]) and b"text/html" in accept


def _is_routine(scope: HTTPScope) -> bool:
    """What machines, and pages that are left open, ask every few seconds."""
    path = scope["path"]
    is_poll = is_page(path) and any(name == b"hx-request" for name, _ in scope["headers"])
    return is_poll or path in QUIET_PATHS or path.startswith("/page/")


def _to_sign_in(scope: HTTPScope) -> ASGIApp:
    query = scope["query_string"].decode("latin-1")
    to = quote(f"{scope['path']}?{query}" if query else scope["path"], safe="")
    return ASGIRedirectResponse(f"{SIGN_IN}?to={to}", status_code=303, headers={"cache-control": "no-store"})


def _refusal(scope: HTTPScope, error: Exception) -> ASGIApp:
    return problem_response(error).to_asgi_response(app=None, request=Request(scope))
