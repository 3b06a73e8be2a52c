"""The leader notes who is late, for itself and for whoever reads (`store/lateness.py`)."""

from __future__ import annotations

from datetime import datetime, timedelta
from time import perf_counter

from manman_status.domain.liveness import Thresholds
from manman_status.domain.sweep import Horizon
from manman_status.leadership import LEASE
from manman_status.store.lateness import Scanned, add_late, forget_late, note_swept, scan_workers
from manman_status.store.leases import check_lease
from manman_status.store.pool import Connection

ROWS_AT_ONCE = 20_000
"""In one transaction."""


class Pace:
    """What costs more with the size of the fleet is done less often then: again after 20 times as
    long as it took, but at least once a minute."""

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


class Lateness:
    """Reads all workers when the watermark has come to where the next of them is late, or its
    deadline can have passed; and, where that costs little, each time: a worker that is new may
    promise more heartbeats than all others."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._scan_from: datetime | None = None
        self._pace = Pace()
        self.looked_at = 0.0
        """By `perf_counter`."""

    def distrust(self) -> None:
        """What is known of the times in the rows holds no more."""
        self._scan_from = None

    async def look(self, connection: Connection, token: int, horizon: Horizon) -> None:
        """Bring the late ones up to this horizon."""
        await self._forget(connection, token, horizon)
        scanned = None
        if self._scan_is_due(horizon):
            scanned = await self._scan(connection, token, horizon)
        async with connection.transaction():
            await check_lease(connection, LEASE, token)
            await note_swept(connection, horizon, scanned)
        self.looked_at = perf_counter()

    async def _forget(self, connection: Connection, token: int, horizon: Horizon) -> None:
        while True:
            async with connection.transaction():
                await check_lease(connection, LEASE, token)
                forgotten = await forget_late(connection, horizon, limit=ROWS_AT_ONCE)
            if forgotten.late_from is not None and self._scan_from is not None:
                self._scan_from = min(self._scan_from, forgotten.late_from)
            if forgotten.workers < ROWS_AT_ONCE:
                return

    def _scan_is_due(self, horizon: Horizon) -> bool:
        return (
            self._scan_from is None
            or horizon.observed_through > self._scan_from
            or self._pace.is_due
        )

    async def _scan(self, connection: Connection, token: int, horizon: Horizon) -> Scanned:
        begun = perf_counter()
        scanned = await scan_workers(connection)
        self._pace.done(begun=begun)
        if scanned.late_from is not None and scanned.late_from < horizon.observed_through:
            after: int | None = 0
            while after is not None:
                async with connection.transaction():
                    await check_lease(connection, LEASE, token)
                    added = await add_late(connection, horizon, after=after, limit=ROWS_AT_ONCE)
                after = added.last_id if added.workers == ROWS_AT_ONCE else None
        # A worker that the scan did not see, or saw with a longer interval, is overdue after the
        # smallest timeout.
        latest = horizon.observed_through + timedelta(
            seconds=self._thresholds.minimum_timeout_seconds
        )
        self._scan_from = min(
            latest, scanned.late_from or latest
        )  # in the past when it hid the next ones
        return scanned
