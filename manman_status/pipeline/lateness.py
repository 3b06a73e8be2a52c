"""The leader notes who is late, for itself and for whoever reads (`store/lateness.py`)."""

from __future__ import annotations

from datetime import datetime, timedelta
from time import perf_counter

from manman_status.domain.sweep import Horizon, SweepRules
from manman_status.pipeline.leadership import LEASE
from manman_status.store.lateness import Scanned, add_late, forget_late, note_swept, scan_workers
from manman_status.store.leases import check_lease
from manman_status.store.pool import Connection

ROWS_AT_ONCE = 20_000
"""In one transaction."""
SCAN_TIMES = 20
"""A scan of all workers that nothing calls for waits for so many times as long as the last one took."""


class Lateness:
    """Reads all workers when the watermark has come to where the next of them is late, or its deadline can have passed;
    and, where that costs little, each time: a worker that is new may promise more heartbeats than all others."""

    def __init__(self, rules: SweepRules) -> None:
        self._rules = rules
        self._scan_from: datetime | None = None
        self._scan_at = 0.0
        self._led_with = 0

    def distrust(self) -> None:
        """What is known of the times in the rows holds no more."""
        self._scan_from = None

    async def look(self, connection: Connection, token: int, horizon: Horizon) -> bool:
        """Bring the late ones up to this horizon; whether all workers were read for it."""
        if self._led_with != token:  # another may have led meanwhile
            self._led_with = token
            self.distrust()
        await self._forget(connection, token, horizon)
        scanned = None
        if self._scan_is_due(horizon):
            scanned = await self._scan(connection, token, horizon)
        async with connection.transaction():
            await check_lease(connection, LEASE, token)
            await note_swept(connection, horizon, scanned)
        return scanned is not None

    async def _forget(self, connection: Connection, token: int, horizon: Horizon) -> None:
        while True:
            async with connection.transaction():
                await check_lease(connection, LEASE, token)
                forgotten = await forget_late(connection, horizon, self._rules, limit=ROWS_AT_ONCE)
            if forgotten.late_from is not None and self._scan_from is not None:
                self._scan_from = min(self._scan_from, forgotten.late_from)
            if forgotten.workers < ROWS_AT_ONCE:
                return

    def _scan_is_due(self, horizon: Horizon) -> bool:
        return self._scan_from is None or horizon.observed_through > self._scan_from or perf_counter() >= self._scan_at

    async def _scan(self, connection: Connection, token: int, horizon: Horizon) -> Scanned:
        begun = perf_counter()
        scanned = await scan_workers(connection, self._rules)
        seconds = perf_counter() - begun
        if scanned.late_from is not None and scanned.late_from < horizon.observed_through:
            after: int | None = 0
            while after is not None:
                async with connection.transaction():
                    await check_lease(connection, LEASE, token)
                    added = await add_late(connection, horizon, self._rules, after=after, limit=ROWS_AT_ONCE)
                after = added.last_id if added.workers == ROWS_AT_ONCE else None
        # A worker that the scan did not see, or saw with a longer interval, is overdue after the smallest timeout.
        latest = horizon.observed_through + timedelta(seconds=self._rules.minimum_timeout)
        self._scan_from = min(latest, scanned.late_from or latest)  # in the past when it hid the next ones
        self._scan_at = perf_counter() + SCAN_TIMES * seconds
        return scanned
