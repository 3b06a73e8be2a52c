"""All transitions for all watchers, with one reading of the database however many watch.

Invariant: a watcher at revision r of an epoch has received every transition of that epoch up to r
that its filters allow, each once. It holds because revisions have no gaps and a page is read in
their order up to where one is missing (`store/feed.py`); because `recent` holds the unbroken run
from `start` to `end`, and a watcher whose position is before `start` reads its page from the
database instead; and because a position moves only with the page that was taken from it.

While somebody watches, the newest revision is read twenty times a second, and new transitions are
read once. A poll and not NOTIFY: that took a fifth of the processors' commits, does not work on a
replica, and is no faster than is needed.

Revisions can go back after a backup was restored or a standby promoted (`store/epochs.py`).
Watchers are then sent where to resume in the new epoch. A processor names the new epoch. If none
does within `UNNAMED_SECONDS`, this process makes up a name: all processors may have been started
after the restore. A replica that lags is behind, too, and names the epoch before; so only a primary
is believed when revisions went back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import msgspec
import structlog

from manman_status.api.errors import TooManyStreams
from manman_status.api.recent import Recent
from manman_status.backoff import Backoff
from manman_status.cancellation import cancel
from manman_status.domain.status import Entity, StatusType
from manman_status.errors import DatabaseUnavailable
from manman_status.store.epochs import read_common
from manman_status.store.feed import (
    BeginAnew,
    Change,
    Latest,
    NotGivenOut,
    Position,
    RevisionDropped,
    read_changes,
    read_latest,
    read_oldest,
)

if TYPE_CHECKING:
    from datetime import datetime

    from manman_status.api.database import Database
    from manman_status.store.epochs import Epoch
    from manman_status.store.health import Observation

log = structlog.get_logger()

POLL_SECONDS = 0.05
UNNAMED_SECONDS = 5.0
LONGEST_BACKOFF_SECONDS = 1.0
PAGE = 1_000
REPLAYS_AT_ONCE = 2
KEPT = 10_000
KEPT_BYTES = 8 * 1024 * 1024


class ChangeFilters(msgspec.Struct, frozen=True):
    """A change passes if each filter that is not empty has its value. The group "" is that of the
    workers without one."""

    worker_ids: frozenset[int] = frozenset()
    groups: frozenset[str] = frozenset()
    entity: Entity | None = None
    new_statuses: frozenset[StatusType] = frozenset()

    def allow(self, change: Change) -> bool:
        return (
            (not self.worker_ids or change.worker_id in self.worker_ids)
            and (
                not self.groups
                or (change.worker_id is not None and (change.group or "") in self.groups)
            )
            and (self.entity is None or change.entity == self.entity)
            and (not self.new_statuses or change.new_status in self.new_statuses)
        )


class Feed:
    """Read new transitions while there are watchers, and nothing while there are none.

    `epoch` is the history that positions belong to; None before the first reading.
    """

    def __init__(
        self,
        database: Database,
        *,
        most_watchers: int,
    ) -> None:
        self._database = database
        self._most_watchers = most_watchers
        self._watchers: set[Watcher] = set()
        self._replaying = asyncio.Semaphore(REPLAYS_AT_ONCE)
        self._tailing: asyncio.Task[None] | None = None
        self._begin(0)
        self.epoch: Epoch | None = None
        # As the database named it, the greatest revision that was seen of it, and when it was seen
        # last.
        self._found: Epoch | None = None
        self._greatest = 0
        self._seen_at: datetime | None = None
        self._behind_since: float | None = None
        self._settling = asyncio.Lock()
        self.observation: Observation
        self.has_ended = False

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
        """End all watchers at once."""
        self.has_ended = True
        self._wake()

    async def close(self) -> None:
        self.end()
        if self._tailing:
            await cancel(self._tailing)

    async def read_latest(self) -> Latest:
        """Shared by all who come at once. From here on nothing newer is missed. Raises
        DatabaseUnavailable, also while it is not known yet which history the database has."""
        deadline = monotonic() + 2 * UNNAMED_SECONDS
        while not await self._settle(
            latest := await self._database.read(read_latest, key="latest")
        ):
            if monotonic() > deadline:
                raise DatabaseUnavailable(
                    cause="a replica has not heard yet that a backup was restored"
                )
            await asyncio.sleep(POLL_SECONDS)
        if self._tailing is None:
            self._begin(latest.revision)
            self.observation = latest.observation
            self._tailing = asyncio.create_task(self._tail())
        return latest

    async def read_history(self, after: int) -> list[Change]:
        """A page of what `recent` no longer has. Few at once, or the watchers that replay would
        take all connections. Raises RevisionDropped, DatabaseUnavailable."""
        async with self._replaying:
            latest, changes = await self._read_changes(after)
        return self._named(changes) if await self._settle(latest) else []

    async def resume(self, position: Position) -> tuple[Position, int]:
        """Translate a position of another epoch into this one, so that nothing is missed; and the
        oldest transition that is kept. Raises DatabaseUnavailable."""
        epoch = self._epoch
        oldest = await self._database.read(read_oldest, key="oldest")
        common = 0 if position.epoch is None else epoch.common(position.epoch, position.revision)
        return Position(epoch.name, max(common, oldest - 1)), oldest

    @property
    def _epoch(self) -> Epoch:
        assert self.epoch is not None, "nothing was read yet"
        return self.epoch

    def _named(self, changes: list[Change]) -> list[Change]:
        """Rename the changes' epoch to the one that watchers know."""
        name = self._epoch.name
        if not changes or changes[0].epoch == name:
            return changes
        return [msgspec.structs.replace(change, epoch=name) for change in changes]

    async def _settle(self, latest: Latest) -> bool:
        """Detect that the history is another one now. False while it is unknown which history an
        answer belongs to: it must not be used. Raises DatabaseUnavailable."""
        async with self._settling:
            if self._found is None or latest.epoch.name != self._found.name:
                if (
                    self._found is not None
                    and latest.is_replica
                    and latest.epoch.name == self._found.previous
                ):
                    return False
                self._begin_epoch(latest, latest.epoch)
            elif self._behind_since is not None or latest.revision < self._greatest:
                if latest.is_replica:
                    return True
                self._behind_since = self._behind_since or monotonic()
                if monotonic() - self._behind_since < UNNAMED_SECONDS:
                    return False
                assert self._seen_at is not None, "it was seen when it was greater"
                common = await self._database.read(
                    partial(read_common, read_at=self._seen_at), key="common"
                )
                self._begin_epoch(latest, self._epoch.suspect(min(common, latest.revision)))
            self._greatest = max(self._greatest, latest.revision)
            self._seen_at = latest.read_at
            return True

    def _begin_epoch(self, latest: Latest, epoch: Epoch) -> None:
        before, self.epoch, self._found = self.epoch, epoch, latest.epoch
        self._greatest, self._behind_since = latest.revision, None
        self._begin(latest.revision)
        if before is not None:
            log.warning(
                "history_restored",
                epoch=epoch.name,
                revision=latest.revision,
                hint=None
                if epoch == latest.epoch
                else "no processor noticed: run `manman-status migrate --new-epoch`",
            )
            self._wake()

    async def _read_changes(self, after: int) -> tuple[Latest, list[Change]]:
        return await self._database.read(
            partial(read_changes, after=after, limit=PAGE), key=("changes", after)
        )

    async def _tail(self) -> None:
        backoff = Backoff(longest_seconds=LONGEST_BACKOFF_SECONDS)
        while self._watchers:
            delay = POLL_SECONDS
            try:
                recent = self.recent
                latest, changes = await self._read_changes(recent.end)
                if await self._settle(latest):
                    self.observation = latest.observation
                    # Else they follow a revision of the epoch before.
                    changes = self._named(changes) if recent is self.recent else []
                else:
                    changes = []
            except DatabaseUnavailable:
                delay = backoff.failed()
            except RevisionDropped as dropped:
                # The database was unavailable for longer than it keeps transitions. Each watcher
                # queries, and gets the error.
                self._begin(dropped.oldest - 1)
                self._wake()
            except Exception:
                # Watchers must not wait for ever.
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
        self.recent = Recent(revision, most=KEPT, most_bytes=KEPT_BYTES)

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.wake()


class Watcher:
    """One client that watches. It has seen everything up to `position`."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._woken = asyncio.Event()
        self._has_left = False
        self._epoch = ""
        self._revision = 0

    @property
    def position(self) -> Position:
        return Position(self._epoch, self._revision)

    @property
    def is_over(self) -> bool:
        return self._has_left or self._feed.has_ended

    @property
    def is_behind(self) -> bool:
        """True if the next page has to be read from the database for this watcher alone."""
        return self._revision < self._feed.recent.start

    @property
    def observation(self) -> Observation:
        return self._feed.observation

    def wake(self) -> None:
        self._woken.set()

    def leave(self) -> None:
        self._has_left = True
        self._woken.set()

    async def begin(self, after: Position | None) -> None:
        """See what follows a position, or what comes from now on. Raises BeginAnew,
        DatabaseUnavailable."""
        latest = await self._feed.read_latest()
        epoch = self._feed.epoch
        assert epoch is not None, "the latest was read"
        self._epoch, self._revision = epoch.name, latest.revision
        if after is None:
            return
        if after.epoch is not None and not epoch.has(after.epoch):
            raise await self._begin_anew(after)
        # A replica may lag behind the one that has given the revision out.
        if after.revision > latest.revision and not (latest.is_replica and after.epoch):
            resume_from, oldest = await self._feed.resume(after)
            raise NotGivenOut(
                position=after, resume_from=resume_from, oldest=oldest, newest=latest.revision
            )
        self._revision = after.revision

    async def more(self) -> list[Change]:
        """Return the next page, at most `PAGE` changes, unfiltered; [] when all are seen. Raises
        BeginAnew when the position is of another history by now, RevisionDropped,
        DatabaseUnavailable."""
        self._woken.clear()
        if self._has_another_history:
            raise await self._begin_anew(self.position)
        if self.is_behind:
            changes = await self._feed.read_history(self._revision)
            if self._has_another_history:
                raise await self._begin_anew(self.position)
        else:
            changes = self._feed.recent.after(self._revision, limit=PAGE)
        if changes:
            self._revision = changes[-1].revision
        return changes

    def go_on(self, position: Position) -> None:
        """Move to a position that a BeginAnew named."""
        assert position.epoch is not None, "a whole position"
        self._epoch, self._revision = position.epoch, position.revision

    @property
    def _has_another_history(self) -> bool:
        return self._feed.epoch is not None and self._feed.epoch.name != self._epoch

    async def _begin_anew(self, position: Position) -> BeginAnew:
        resume_from, oldest = await self._feed.resume(position)
        return BeginAnew(position=position, resume_from=resume_from, oldest=oldest)

    async def wait(self, seconds: float) -> None:
        """Wait until there may be more, the watcher is over, or the time has passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
