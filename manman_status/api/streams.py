"""Two ways to watch changes: Server-Sent Events, and a long poll that answers once there are
any."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING

from manman_status.api.responses import changes_answer
from manman_status.errors import DatabaseUnavailable
from manman_status.store.feed import BeginAnew, Position, RevisionDropped

if TYPE_CHECKING:
    from litestar.types import Receive, Scope, Send

    from manman_status.api.feed import ChangeFilters, Feed, Watcher
    from manman_status.store.feed import Change

COMMENT_SECONDS = 15.0
STALLED_SECONDS = 60.0
TRY_AGAIN_SECONDS = 0.5
HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@asynccontextmanager
async def _attended(watcher: Watcher, receive: Receive) -> AsyncIterator[None]:
    """The watcher is over as soon as its client has left."""

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        watcher.leave()

    listening = asyncio.create_task(listen())
    try:
        yield
    finally:
        listening.cancel()


def _block(event: str, position: Position) -> bytes:
    """An event that says where to go on."""
    data = json.dumps({"from": str(position)}, separators=(",", ":"))
    return f"id: {position}\nevent: {event}\ndata: {data}\n\n".encode()


class EventStream:
    """An ASGI application that sends changes to one client until it leaves, the server ends, or it
    cannot keep up.

    An id without data moves the client's Last-Event-ID and is no event to it, so a client whose
    filters let nothing pass resumes where it was, too.
    """

    def __init__(
        self,
        feed: Feed,
        filters: ChangeFilters,
        *,
        after: Position | None,
        comment_seconds: float = COMMENT_SECONDS,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        self._feed = feed
        self._filters = filters
        self._after = after
        self._comment_seconds = comment_seconds
        self._stalled_seconds = stalled_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Raises TooManyStreams, BeginAnew, RevisionDropped, DatabaseUnavailable before the first
        byte."""
        with self._feed.watch() as watcher:
            await watcher.begin(self._after)
            at = watcher.position
            changes = await watcher.more()
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            with suppress(TimeoutError):
                async with _attended(watcher, receive):
                    await self._send(send, f"id: {at}\n\n".encode())
                    await self._send_changes(watcher, changes, send)
                    await self._send(send, b"", more=False)

    async def _send_changes(self, watcher: Watcher, changes: Sequence[Change], send: Send) -> None:
        """Send changes until the client has left or must reconnect. It then requests what it was
        not sent by then."""
        comment_at = monotonic() + self._comment_seconds
        has_caught_up = has_failed = False
        while not watcher.is_over:
            has_caught_up = has_caught_up or not watcher.is_behind
            events = b"".join(change.event for change in changes if self._filters.allow(change))
            if not events and monotonic() >= comment_at:
                events = f":\nid: {watcher.position}\n\n".encode()
            if events:
                comment_at = monotonic() + self._comment_seconds
                await self._send(send, events)
            if not changes and not has_failed:
                await watcher.wait(max(0.0, comment_at - monotonic()))
            if has_caught_up and watcher.is_behind:
                await self._send(send, _block("overrun", watcher.position))
                return
            try:
                changes, has_failed = await watcher.more(), False
            except RevisionDropped:
                return
            except BeginAnew as error:
                watcher.go_on(error.resume_from)
                await self._send(send, _block("restored", error.resume_from))
                changes, has_caught_up, has_failed = [], False, True
            except DatabaseUnavailable:
                changes, has_failed = [], True
                await asyncio.sleep(TRY_AGAIN_SECONDS)

    async def _send(self, send: Send, content: bytes, *, more: bool = True) -> None:
        """Raises TimeoutError when the client has accepted nothing for long: it may be gone
        unnoticed."""
        async with asyncio.timeout(self._stalled_seconds):
            await send({"type": "http.response.body", "body": content, "more_body": more})


class LongPoll:
    """An ASGI application that answers at most `limit` changes when there are any, or none after
    `wait_seconds`.

    It reads at least one page, and no further than it has time. Its revision is how far it has
    looked, so that whoever goes on from there requests nothing twice.
    """

    def __init__(
        self,
        feed: Feed,
        filters: ChangeFilters,
        *,
        since: Position | None,
        wait_seconds: float,
        limit: int,
    ) -> None:
        self._feed = feed
        self._filters = filters
        self._since = since
        self._wait_seconds = wait_seconds
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises TooManyStreams, BeginAnew, RevisionDropped, DatabaseUnavailable."""
        with self._feed.watch() as watcher:
            await watcher.begin(self._since)
            async with _attended(watcher, receive):
                found, position = await self._find(watcher)
            answer = changes_answer(
                [change.item for change in found], position, watcher.observation
            )
        await answer(scope, receive, send)

    async def _find(self, watcher: Watcher) -> tuple[list[Change], Position]:
        """Return what was found, and the position up to which there is no more of it."""
        until = monotonic() + self._wait_seconds
        found: list[Change] = []
        while True:
            changes = await watcher.more()
            found += filter(self._filters.allow, changes)
            if len(found) >= self._limit:
                found = found[: self._limit]
                return found, Position(found[-1].epoch, found[-1].revision)
            if watcher.is_over or monotonic() >= until or (found and not changes):
                return found, watcher.position
            if not changes:
                await watcher.wait(until - monotonic())
