"""Answers, ready to send, and kept for a moment for the next request of the same.

A question is an operation with its parsed parameters. A query string is only one spelling of it:
spellings are remembered, a bounded number of them, and lead to the one question, so that `%65u` or
another order of the parameters stores nothing twice and reads nothing twice. A spelling that was
seen before goes no further than the middleware here: the same parameters need no second parsing and
no second check, whether the answer is kept or has to be read. The age of an answer is always in its
`as_of` and `Age`.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from litestar import Request

from manman_status.api.errors import problem_response
from manman_status.api.readings import kept_seconds

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Receive, Scope, Send

    from manman_status.api.database import Database, Query

Spelling: TypeAlias = tuple[str, bytes]
"""Path and query as they were sent."""

KEPT_BYTES = 32 * 1024 * 1024
MOST_SPELLINGS = 4096
LONGEST_SPELLING = 512
EXPENSIVE_KEPT_TIMES = 10
BESIDE_THE_BODY_BYTES = 2048


class Answer:
    """An ASGI application that sends one body. The ETag covers `lasting` only: times may change
    without changing it."""

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
        """Send 304 without a body to a client that has it already."""
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
    """Compare weakly, as RFC 9110 demands for If-None-Match."""
    tags = {
        tag.strip().removeprefix("W/")
        for line in given
        for tag in line.decode("latin-1").split(",")
    }
    return "*" in tags or tag in tags


class Question(msgspec.Struct, frozen=True):
    """An operation with its parsed parameters. `key` names both: the answer of `query` depends on
    nothing else."""

    key: bytes
    query: Query[Answer]
    is_expensive: bool


class Answers:
    """Answer each question with the answer that is kept, or a new one. `keep_ms` 0 keeps none."""

    def __init__(self, database: Database, expensive_reads: Database, *, keep_ms: int) -> None:
        self._database = database
        self._expensive_reads = expensive_reads
        self._keep_seconds = keep_ms / 1000
        self._kept: OrderedDict[bytes, Answer] = OrderedDict()
        self._spellings: OrderedDict[Spelling, Question] = OrderedDict()
        self._bytes = 0

    async def read(
        self,
        request: Request[Any, Any, Any],
        query: Query[Answer],
        *parsed: Any,
        expensive: bool = False,
    ) -> Answer:
        """Answer a request whose answer depends on the values in `parsed` alone. Raises
        DatabaseUnavailable, DatabaseBusy."""
        key = msgspec.json.encode((request.scope["path_template"], parsed), order="sorted")
        question = Question(key, query, expensive)
        self._remember(_spelling(request.scope), question)
        return await self.answer(question)

    async def answer(self, question: Question) -> Answer:
        """Return the kept answer, or read one that all concurrent callers share. Errors are
        not kept. Raises DatabaseUnavailable, DatabaseBusy."""
        if kept := self._current(question.key):
            return kept
        database = self._expensive_reads if question.is_expensive else self._database
        begun = time.monotonic()
        answer = await database.read(question.query, key=question.key)
        if self._keep_seconds:
            answer.kept_seconds = kept_seconds(
                self._keep_seconds,
                times=EXPENSIVE_KEPT_TIMES if question.is_expensive else 0,
                took=time.monotonic() - begun,
            )
            self.keep(question.key, answer)
        return answer

    def known_question(self, spelling: Spelling) -> Question | None:
        if spelling not in self._spellings:
            return None
        self._spellings.move_to_end(spelling)
        return self._spellings[spelling]

    def keep(self, key: bytes, answer: Answer) -> None:
        self._forget(key)
        self._kept[key] = answer
        self._bytes += _size(key, answer)
        while self._bytes > KEPT_BYTES:
            self._forget(next(iter(self._kept)))

    def _current(self, key: bytes) -> Answer | None:
        answer = self._kept.get(key)
        if answer is None:
            return None
        if time.monotonic() - answer.read_at >= answer.kept_seconds:
            self._forget(key)
            return None
        self._kept.move_to_end(key)
        return answer

    def _remember(self, spelling: Spelling, question: Question) -> None:
        if sum(map(len, spelling)) > LONGEST_SPELLING:
            return
        self._spellings[spelling] = question
        if len(self._spellings) > MOST_SPELLINGS:
            self._spellings.popitem(last=False)

    def _forget(self, key: bytes) -> None:
        if answer := self._kept.pop(key, None):
            self._bytes -= _size(key, answer)


def _spelling(scope: Scope) -> Spelling:
    return scope["path"], scope["query_string"]


def _size(key: bytes, answer: Answer) -> int:
    return len(key) + len(answer.body) + BESIDE_THE_BODY_BYTES


def remembered_questions(app: ASGIApp) -> ASGIApp:
    """Middleware: answer a request that came before in the same spelling without its handler."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        answers: Answers = scope["litestar_app"].state["answers"]
        if (question := answers.known_question(_spelling(scope))) is None:
            await app(scope, receive, send)
            return
        answer: ASGIApp
        try:
            answer = await answers.answer(question)
        except Exception as error:  # noqa: BLE001 - logged where it is turned into an answer
            # Litestar's own handler of errors is outside of the middleware that counts requests.
            answer = problem_response(error).to_asgi_response(app=None, request=Request(scope))
        await answer(scope, receive, send)

    return middleware
