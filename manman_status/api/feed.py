"""Every transition, told to all who watch: one reading of the database, however many they are.

The newest revision is asked for twenty times a second while somebody watches, and what is new is read once. A poll and
not NOTIFY: that took a fifth of the processors' commits, works on no replica, and comes no sooner than it must.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, cast

import msgspec
import structlog

from manman_status.api.errors import InvalidParameter, TooManyStreams
from manman_status.api.recent import Recent
from manman_status.backoff import Backoff
from manman_status.cancellation import cancel
from manman_status.domain.status import Entity, StatusType
from manman_status.errors import DatabaseUnavailable
from manman_status.store.feed import Change, RevisionDropped, read_changes, read_latest

if TYPE_CHECKING:
    from litestar import Litestar

    from manman_status.api.database import Database
    from manman_status.store.health import Observation

log = structlog.get_logger()

POLL_SECONDS = 0.05
LONGEST_BACKOFF_SECONDS = 1.0
PAGE = 1_000
REPLAYS_AT_ONCE = 2
KEPT = 10_000
KEPT_BYTES = 8 * 1024 * 1024


class ChangeFilters(msgspec.Struct, frozen=True):
    """Of each that is not empty, one value must be the change's. The group "" is that of the workers without one."""

    worker_ids: frozenset[int] = frozenset()
    groups: frozenset[str] = frozenset()
    entity: Entity | None = None
    new_statuses: frozenset[StatusType] = frozenset()

    def allow(self, change: Change) -> bool:
        return (
            (not self.worker_ids or change.worker_id in self.worker_ids)
            and (not self.groups or (change.worker_id is not None and (change.group or "") in self.groups))
            and (self.entity is None or change.entity == self.entity)
            and (not self.new_statuses or change.new_status in self.new_statuses)
        )


class Feed:
    """Reads what is new while there are watchers, and asks nothing of the database while there are none."""

    def __init__(self, database: Database, *, most_watchers: int, kept: int = KEPT) -> None:
        self._database = database
        self._most_watchers = most_watchers
        self._kept = kept
        self._watchers: set[Watcher] = set()
        self._replaying = asyncio.Semaphore(REPLAYS_AT_ONCE)
        self._tailing: asyncio.Task[None] | None = None
        self._begin(0)
        self.observation: Observation
        self.has_ended = False

    @staticmethod
    def of(app: Litestar) -> Feed:
        return cast("Feed", app.state["feed"])

    @contextmanager
    def watch(self) -> Iterator[Watcher]:
        """Raises TooManyStreams."""
        if len(self._watchers) >= self._most_watchers:
            raise TooManyStreams(most=self._most_watchers)
        watcher = Watcher(self)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def end(self) -> None:
        """Whoever watches is to be told that it is over, at once."""
        self.has_ended = True
        self._wake()

    async def close(self) -> None:
        self.end()
        if self._tailing:
            await cancel(self._tailing)

    async def read_latest(self) -> Observation:
        """Shared by all who come at once. From here on nothing newer is missed. Raises DatabaseUnavailable."""
        latest = await self._database.read(read_latest, key="latest")
        if self._tailing is None:
            self._begin(latest.revision)
            self.observation = latest
            self._tailing = asyncio.create_task(self._tail())
        return latest

    async def read_history(self, after: int) -> list[Change]:
        """A page of what `recent` no longer has. Few at once, or the watchers that replay would take all connections.
        Raises RevisionDropped, DatabaseUnavailable."""
        async with self._replaying:
            return (await self._read_changes(after))[1]

    async def _read_changes(self, after: int) -> tuple[Observation, list[Change]]:
        return await self._database.read(partial(read_changes, after=after, limit=PAGE), key=("changes", after))

    async def _tail(self) -> None:
        backoff = Backoff(longest_seconds=LONGEST_BACKOFF_SECONDS)
        while self._watchers:
            delay = POLL_SECONDS
            try:
                self.observation, changes = await self._read_changes(self.recent.end)
            except DatabaseUnavailable:
                delay = backoff.failed()
            except RevisionDropped as dropped:
                # The database was away for longer than it keeps them. Whoever watches will ask, and be told.
                self._begin(dropped.oldest - 1)
                self._wake()
            except Exception:
                # Those who watch must not be left without a word for ever.
                delay = backoff.failed()
                log.exception("feed_failed")
            else:
                backoff = Backoff(longest_seconds=LONGEST_BACKOFF_SECONDS)
                if changes:
                    self.recent.append(changes)
                    self._wake()
                if len(changes) == PAGE:
                    continue
            await asyncio.sleep(delay)
        self._tailing = None

    def _begin(self, revision: int) -> None:
        self.recent = Recent(revision, most=self._kept, most_bytes=KEPT_BYTES)

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.wake()


class Watcher:
    """One that is told. It has seen everything up to revision `position`."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._woken = asyncio.Event()
        self._has_left = False
        self.position = 0

    @property
    def is_over(self) -> bool:
        return self._has_left or self._feed.has_ended

    @property
    def is_behind(self) -> bool:
        """What comes next has to be read from the database for this one alone."""
        return self.position < self._feed.recent.start

    @property
    def observation(self) -> Observation:
        return self._feed.observation

    def wake(self) -> None:
        self._woken.set()

    def leave(self) -> None:
        self._has_left = True
        self._woken.set()

    async def begin(self, after: int | None, *, parameter: str) -> None:
        """See what follows a revision, or what comes from now on. Raises InvalidParameter, DatabaseUnavailable."""
        newest = (await self._feed.read_latest()).revision
        if after is not None and after > newest:
            raise InvalidParameter(parameter, f"revision {after} is not given out yet, the newest is {newest}")
        self.position = newest if after is None else after

    async def more(self) -> list[Change]:
        """The next `PAGE` at most, filtered or not; [] when all seen. Raises RevisionDropped, DatabaseUnavailable."""
        self._woken.clear()
        if self.is_behind:
            changes = await self._feed.read_history(self.position)
        else:
            changes = self._feed.recent.after(self.position, limit=PAGE)
        if changes:
            self.position = changes[-1].revision
        return changes

    async def wait(self, seconds: float) -> None:
        """Until there may be more, it is over, or the time has passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
