"""Answers, ready to send, and kept for a moment for whoever asks the same again.

A kept answer costs no reading and none of the checks of its parameters, which are the same. How old
it is, its `as_of` and `Age` always tell.

What is kept is named by the parameters as parsed. A query is only one spelling of them: spellings
are remembered, a bounded number of them, and lead to the one answer, so that `%65u` or another
order of the parameters stores nothing twice and reads nothing twice.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec

from manman_status.api.database import Database

if TYPE_CHECKING:
    from litestar import Litestar, Request
    from litestar.types import ASGIApp, Receive, Scope, Send

    from manman_status.api.database import Ask

Spelling: TypeAlias = tuple[str, bytes]
"""Path and query as they were sent."""

KEPT_BYTES = 32 * 1024 * 1024
MOST_SPELLINGS = 4096
LONGEST_SPELLING = 512
EXPENSIVE_KEPT_TIMES, EXPENSIVE_KEPT_AT_MOST_SECONDS = 10, 60.0
"""An expensive answer is kept for so many times as long as it took to read, and a minute at
most."""
BESIDE_THE_BODY_BYTES = 2048


class Answer:
    """An ASGI application that says one thing. Whoever has the ETag has all of it that is
    `lasting`."""

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
        self.kept_seconds = 0.0
        self._lag_seconds = lag_seconds or 0.0
        self._tag = f'"{hashlib.sha256(lasting).hexdigest()[:32]}"'
        self._headers = [(b"etag", f"W/{self._tag}".encode()), (b"cache-control", cache_control)]
        length = str(len(body)).encode()
        self._content_headers = [(b"content-type", content_type), (b"content-length", length)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """304 without a body to an asker who has it already."""
        age = int(self._lag_seconds + time.monotonic() - self.read_at)
        headers = [*self._headers, (b"age", str(age).encode())]
        known = _has(
            self._tag, (value for name, value in scope["headers"] if name == b"if-none-match")
        )
        status, body = (304, b"") if known else (200, self.body)
        if not known:
            headers += self._content_headers
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _has(tag: str, given: Iterable[bytes]) -> bool:
    """Weak comparison, as RFC 9110 asks for it in If-None-Match."""
    tags = {
        tag.strip().removeprefix("W/")
        for line in given
        for tag in line.decode("latin-1").split(",")
    }
    return "*" in tags or tag in tags


class Answers:
    """Gives each question its answer: the one that is kept, or a new one. `keep_ms` 0 keeps
    none."""

    def __init__(self, *, keep_ms: int) -> None:
        self._keep_seconds = keep_ms / 1000
        self._kept: OrderedDict[bytes, Answer] = OrderedDict()
        self._spellings: OrderedDict[Spelling, bytes] = OrderedDict()
        self._bytes = 0

    @staticmethod
    def of(app: Litestar) -> Answers:
        return cast("Answers", app.state["answers"])

    async def read(
        self,
        request: Request[Any, Any, Any],
        ask: Ask[Answer],
        *parsed: Any,
        expensive: bool = False,
    ) -> Answer:
        """A new answer, shared with all who ask the same at once. `parsed` is every value that it
        depends on. Errors are not kept. Raises DatabaseUnavailable, DatabaseBusy."""
        question = msgspec.json.encode((request.scope["path_template"], parsed), order="sorted")
        if self._keep_seconds:
            self._remember(_spelling(request.scope), question)
            if kept := self._current(question):
                return kept
        database = Database.for_expensive_reads(request) if expensive else Database.of(request)
        begun = time.monotonic()
        answer = await database.read(ask, key=question)
        if self._keep_seconds:
            answer.kept_seconds = self._keep_seconds
            if expensive:
                took = EXPENSIVE_KEPT_TIMES * (time.monotonic() - begun)
                answer.kept_seconds = max(
                    answer.kept_seconds, min(took, EXPENSIVE_KEPT_AT_MOST_SECONDS)
                )
            self.keep(question, answer)
        return answer

    def kept(self, spelling: Spelling) -> Answer | None:
        question = self._spellings.get(spelling)
        return None if question is None else self._current(question)

    def keep(self, question: bytes, answer: Answer) -> None:
        self._forget(question)
        self._kept[question] = answer
        self._bytes += _size(question, answer)
        while self._bytes > KEPT_BYTES:
            self._forget(next(iter(self._kept)))

    def _current(self, question: bytes) -> Answer | None:
        answer = self._kept.get(question)
        if answer is None:
            return None
        if time.monotonic() - answer.read_at >= answer.kept_seconds:
            self._forget(question)
            return None
        self._kept.move_to_end(question)
        return answer

    def _remember(self, spelling: Spelling, question: bytes) -> None:
        if sum(map(len, spelling)) > LONGEST_SPELLING:
            return
        self._spellings[spelling] = question
        self._spellings.move_to_end(spelling)
        if len(self._spellings) > MOST_SPELLINGS:
            self._spellings.popitem(last=False)

    def _forget(self, question: bytes) -> None:
        if answer := self._kept.pop(question, None):
            self._bytes -= _size(question, answer)


def _spelling(scope: Scope) -> Spelling:
    return scope["path"], scope["query_string"]


def _size(question: bytes, answer: Answer) -> int:
    return len(question) + len(answer.body) + BESIDE_THE_BODY_BYTES


def kept_answers(app: ASGIApp) -> ASGIApp:
    """Middleware: whoever asks what was just answered goes no further."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        kept = Answers.of(scope["litestar_app"]).kept(_spelling(scope))
        await (kept or app)(scope, receive, send)

    return middleware
