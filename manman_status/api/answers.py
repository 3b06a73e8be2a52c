"""Answers, ready to send, and kept for a moment for whoever asks the same again.

A kept answer costs no reading and none of the checks of its parameters, which are the same. How old it is, its `as_of`
and `Age` always tell.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    from litestar import Litestar, Request
    from litestar.types import ASGIApp, Receive, Scope, Send

    from manman_status.api.database import Ask, Database

Question: TypeAlias = tuple[str, bytes]

KEPT_BYTES = 32 * 1024 * 1024
BESIDE_THE_BODY_BYTES = 2048


class Answer:
    """An ASGI application that says one thing. Whoever has the ETag has all of it that is `lasting`."""

    def __init__(
        self,
        body: bytes,
        *,
        lasting: bytes,
        lag_seconds: float | None,
        content_type: bytes = b"application/json",
        cache_control: bytes = b"no-cache",
    ) -> None:
        self.body = body
        self.read_at = time.monotonic()
        self._lag_seconds = lag_seconds or 0.0
        self._tag = f'"{hashlib.sha256(lasting).hexdigest()[:32]}"'
        self._headers = [(b"etag", f"W/{self._tag}".encode()), (b"cache-control", cache_control)]
        length = str(len(body)).encode()
        self._content_headers = [(b"content-type", content_type), (b"content-length", length)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """304 without a body to an asker who has it already."""
        age = int(self._lag_seconds + time.monotonic() - self.read_at)
        headers = [*self._headers, (b"age", str(age).encode())]
        known = _has(self._tag, (value for name, value in scope["headers"] if name == b"if-none-match"))
        status, body = (304, b"") if known else (200, self.body)
        if not known:
            headers += self._content_headers
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _has(tag: str, given: Iterable[bytes]) -> bool:
    """Weak comparison, as RFC 9110 asks for it in If-None-Match."""
    tags = {tag.strip().removeprefix("W/") for line in given for tag in line.decode("latin-1").split(",")}
    return "*" in tags or tag in tags


class Answers:
    """Gives each question its answer: the one that is kept, or a new one. 0 keeps none."""

    def __init__(self, database: Database, *, keep_ms: int) -> None:
        self._database = database
        self._keep_seconds = keep_ms / 1000
        self._kept: OrderedDict[Question, Answer] = OrderedDict()
        self._bytes = 0

    @staticmethod
    def of(app: Litestar) -> Answers:
        return cast("Answers", app.state["answers"])

    async def read(self, request: Request[Any, Any, Any], ask: Ask[Answer]) -> Answer:
        """A new answer, shared with all who ask the same at once. Errors are not kept. Raises DatabaseUnavailable."""
        question = _question(request.scope)
        answer = await self._database.read(ask, key=question)
        if self._keep_seconds:
            self.keep(question, answer)
        return answer

    def kept(self, question: Question) -> Answer | None:
        answer = self._kept.get(question)
        if answer is None:
            return None
        if time.monotonic() - answer.read_at >= self._keep_seconds:
            self._forget(question)
            return None
        self._kept.move_to_end(question)
        return answer

    def keep(self, question: Question, answer: Answer) -> None:
        self._forget(question)
        self._kept[question] = answer
        self._bytes += _size(question, answer)
        while self._bytes > KEPT_BYTES:
            self._forget(next(iter(self._kept)))

    def _forget(self, question: Question) -> None:
        if answer := self._kept.pop(question, None):
            self._bytes -= _size(question, answer)


def _question(scope: Scope) -> Question:
    return scope["path"], scope["query_string"]


def _size(question: Question, answer: Answer) -> int:
    return sum(map(len, question)) + len(answer.body) + BESIDE_THE_BODY_BYTES


def kept_answers(app: ASGIApp) -> ASGIApp:
    """Middleware: whoever asks what was just answered goes no further."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        kept = Answers.of(scope["litestar_app"]).kept(_question(scope))
        await (kept or app)(scope, receive, send)

    return middleware
