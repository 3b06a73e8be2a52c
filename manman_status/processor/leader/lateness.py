"""Keeps the table of the late workers (`store/lateness.py`), without reading the whole fleet in
each sweep.

Invariant: after `look`, every watched worker that is late at the horizon is noted, except one whose
row came into being, changed, or moved to another page since its slice was read.

The table `workers` is read in slices of consecutive pages. Reading a slice gives the workers that
are late or will be within `SOON`, which from then on are looked up by their keys, and the time
`due_from` at which the first of all the others will be late. Heartbeats only move that time ahead.
So before `due_from` nobody else in the slice can be late, and the slice need not be read again.
What a row's change or move can hide is bounded: each slice is read again before the smallest
timeout has passed in observed time. A worker is overdue after the smallest timeout at the earliest,
and a row changes or moves only when something was received about the worker.

Each sweep reads a share of the slices: those that are due, then the longest unread. So they come
due one after another, and a sweep reads about a quarter of a large fleet. A small fleet is one
slice, which is read in each sweep.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from time import perf_counter

from manman_status.domain.liveness import Thresholds
from manman_status.domain.sweep import Horizon
from manman_status.leadership import Term
from manman_status.store.lateness import (
    Pages,
    add_late,
    count_pages,
    forget_late,
    note_swept,
    scan_workers,
)
from manman_status.store.pool import Connection

ROWS_AT_ONCE = 20_000
"""Rows added or removed in one transaction."""
PAGES_AT_ONCE = 4_096
"""Pages in one slice: 32 MiB, some 50,000 workers."""
LAST_PAGE = 2**32 - 1
SOON = timedelta(seconds=4)
SWEEPS_PER_READ = 4
"""Each slice is read about once in so many sweeps, though it is not due."""
MOST_SOON = 5_000
"""Workers of one slice that are looked up by their keys. With more, as where heartbeats are seconds
apart, the slice is read again instead."""


class Pace:
    """Schedules work whose cost grows with the fleet: again after 20 times as long as it took, but
    at least once a minute."""

    def __init__(self) -> None:
        self._due_at = 0.0

    @property
    def is_due(self) -> bool:
        return perf_counter() >= self._due_at

    def hurry(self) -> None:
        self._due_at = 0.0

    def done(self, *, begun: float) -> None:
        """`begun` is by `perf_counter`."""
        now = perf_counter()
        self._due_at = now + min(20 * (now - begun), 60.0)


class Slice:
    """A slice of `workers`, and what was found when it was last read."""

    def __init__(self, number: int) -> None:
        self._first = number * PAGES_AT_ONCE
        self.due_from: datetime | None = None
        """The time at which the slice must be read again; None before it was read."""
        self.oldest_heartbeat: datetime | None = None
        self.read_at = float("-inf")

    def pages(self, *, is_last: bool) -> Pages:
        """The last slice has no end: the table grows meanwhile."""
        return Pages(self._first, LAST_PAGE if is_last else self._first + PAGES_AT_ONCE)

    def is_due(self, horizon: Horizon) -> bool:
        return self.due_from is None or horizon.observed_through > self.due_from


class Lateness:
    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._slices: list[Slice] = []
        # By worker: when it is late, and when that was found. Until all slices were read since.
        self._awaited: dict[int, tuple[datetime, float]] = {}
        self.looked_at = 0.0
        """The time of the last look, by `perf_counter`."""

    def distrust(self) -> None:
        """Read everything again: another may have led meanwhile, or the times in the rows were
        moved."""
        self._slices = []
        self._awaited = {}

    async def look(self, connection: Connection, term: Term, horizon: Horizon) -> None:
        """Bring `late_workers` up to this horizon."""
        await self._forget(connection, term, horizon)
        await self._fit(connection)
        longest_unread = sorted(self._slices, key=lambda part: part.read_at)
        due = [part for part in longest_unread if part.is_due(horizon)]
        early = [part for part in longest_unread if not part.is_due(horizon)]
        share = -(-len(self._slices) // SWEEPS_PER_READ)
        for part in [*due, *early[: max(0, share - len(due))]]:
            await self._read(connection, horizon, part)
        await self._add(connection, term, horizon)
        heartbeats = (part.oldest_heartbeat for part in self._slices)
        oldest = min((at for at in heartbeats if at is not None), default=None)
        async with term.transaction(connection):
            await note_swept(connection, horizon, oldest)
        self.looked_at = perf_counter()

    async def _fit(self, connection: Connection) -> None:
        """Have as many slices as the table needs now, at least one."""
        number = max(1, -(-await count_pages(connection) // PAGES_AT_ONCE))
        del self._slices[number:]
        self._slices += [Slice(each) for each in range(len(self._slices), number)]

    async def _forget(self, connection: Connection, term: Term, horizon: Horizon) -> None:
        while True:
            async with term.transaction(connection):
                gone = await forget_late(connection, horizon, limit=ROWS_AT_ONCE)
            self._await({key: at for key, at in gone.items() if at is not None})
            if len(gone) < ROWS_AT_ONCE:
                return

    async def _read(self, connection: Connection, horizon: Horizon, part: Slice) -> None:
        part.read_at = perf_counter()  # before `_await`: what is found now outlasts this read
        through = horizon.observed_through
        pages = part.pages(is_last=part is self._slices[-1])
        scanned = await scan_workers(connection, pages, soon=through + SOON)
        found = dict(zip(scanned.worker_ids, scanned.late_from, strict=True))
        late = {key: at for key, at in found.items() if at < through}
        due = [through + timedelta(seconds=self._thresholds.minimum_timeout_seconds)]
        if scanned.others_late_from is not None:
            due.append(scanned.others_late_from)
        if len(found) - len(late) > MOST_SOON:
            due += [at for at in found.values() if at >= through]
            found = late
        self._await(found)
        part.due_from = min(due)
        part.oldest_heartbeat = scanned.oldest_heartbeat

    def _await(self, late_from: Mapping[int, datetime]) -> None:
        now = perf_counter()
        self._awaited |= {key: (at, now) for key, at in late_from.items()}

    async def _add(self, connection: Connection, term: Term, horizon: Horizon) -> None:
        """Note the awaited workers that are late now."""
        all_read_at = min(part.read_at for part in self._slices)
        late = []
        for worker_id, (at, found_at) in list(self._awaited.items()):
            if at < horizon.observed_through:
                late.append(worker_id)
                del self._awaited[worker_id]
            elif found_at < all_read_at:
                del self._awaited[worker_id]
        for first in range(0, len(late), ROWS_AT_ONCE):
            async with term.transaction(connection):
                some = late[first : first + ROWS_AT_ONCE]
                self._await(await add_late(connection, horizon, some))
